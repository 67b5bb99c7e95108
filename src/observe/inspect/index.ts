import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import type { Router } from 'express';
import type { Clock } from '../../clock.ts';
import type { AccessRule } from '../../http/access.ts';
import type { Ids } from '../../ids.ts';
import { createInspectionHub, type InspectionHub, type InspectionHubOptions } from './hub.ts';
import { createTickets, inspectPage } from './page.ts';
import { createInspectSocket } from './socket.ts';

export interface InspectionOptions extends Omit<InspectionHubOptions, 'clock'> {
  clock: Clock;
  ids: Ids;
  allow: AccessRule;
  /** Viewer that the page frames, as an http(s) URL. */
  inspectorUrl: string;
  /** Maximum number of bytes buffered for one viewer; beyond it the viewer is disconnected. */
  bufferBytes: number;
  /** Maximum number of simultaneous viewers. */
  viewers: number;
  /** Maximum number of sampled sessions shown to one viewer at the same time. */
  sessions: number;
  onCutOff?(): void;
}

/** The whole inspector: the actors' `inspect` option, its page and its WebSocket. */
export interface Inspection extends Pick<InspectionHub, 'observe' | 'place' | 'viewers'> {
  readonly router: Router;
  /**
   * Handles the server's `upgrade` event. Returns false when the request is for another path; the caller must then
   * answer it.
   */
  handleUpgrade(req: IncomingMessage, socket: Duplex, head: Buffer): boolean;
  close(): void;
}

/** Creates the inspector from its hub, tickets, page and socket. */
export function createInspection(options: InspectionOptions): Inspection {
  const hub = createInspectionHub(options);
  const tickets = createTickets(options);
  const socket = createInspectSocket({ ...options, hub, tickets });
  return {
    observe: hub.observe,
    place: hub.place,
    get viewers() {
      return hub.viewers;
    },
    router: inspectPage({ ...options, tickets }),
    handleUpgrade: socket.handleUpgrade,
    close: socket.close,
  };
}
