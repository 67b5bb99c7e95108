/** Convert rows to the port's shape, so that no caller maps columns again. */
export const rows = [
  `create function holdfast_session_json(s bridge_session) returns json language sql stable as $$
  select json_build_object(
    'id', s.id,
    'scope', s.scope,
    'state', s.state,
    'snapshot', s.snapshot,
    'machineVersion', s.machine_version,
    'revision', s.revision,
    'ownerWorkerId', s.owner_worker_id,
    'ownerNonce', s.owner_nonce,
    'epoch', s.epoch,
    'activeTurnId', s.active_turn_id,
    'headTurnId', s.head_turn_id,
    'upstreamId', s.upstream_id,
    'model', s.model,
    'anchorLost', s.anchor_lost)
$$`,
  `create function holdfast_turn_json(t turn) returns json language sql stable as $$
  select json_build_object(
    'id', t.id,
    'sessionId', t.session_id,
    'scope', t.scope,
    'parentTurnId', t.parent_turn_id,
    'epoch', t.epoch,
    'authorWorkerId', t.author_worker_id,
    'shape', t.shape,
    'state', t.state,
    'responseId', t.response_id,
    'requestFp', t.request_fp,
    'contextFp', t.context_fp,
    'transcriptFp', t.transcript_fp,
    'itemCount', t.item_count,
    'replay', t.replay,
    'storedUpstream', t.stored_upstream,
    'credentialFp', t.credential_fp,
    'clientTurnId', t.client_turn_id)
$$`,
  `create function holdfast_worker_json(w worker) returns json language sql stable as $$
  select json_build_object(
    'id', w.id,
    'internalUrl', w.internal_url,
    'livenessPath', w.liveness_path,
    'state', w.state,
    'version', w.version,
    'leaseLeftMs', floor(extract(epoch from w.heartbeat_expires_at - now()) * 1000))
$$`,
];
