import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import type { Router } from 'express';
import type { Clock } from '../../clock.ts';
import type { Ids } from '../../ids.ts';
import type { AccessRule } from '../access.ts';
import { createInspectionHub, type InspectionHub, type InspectionHubOptions } from './hub.ts';
import { inspectPage } from './page.ts';
import { createInspectSocket } from './socket.ts';
import { createTickets } from './tickets.ts';

export interface InspectionOptions extends Omit<InspectionHubOptions, 'clock'> {
  clock: Clock;
  ids: Ids;
  allow: AccessRule;
  /** The viewer framed by the page, an http(s) address. */
  inspectorUrl: string;
  /** Bytes that may wait for one viewer before it is cut off. */
  bufferBytes: number;
  /** Viewers at the same time. */
  viewers: number;
  /** Sessions of a sample shown to one viewer at the same time. */
  sessions: number;
  onCutOff?(): void;
}

/** The inspector as a whole: what actors are observed with, its page, and its socket. */
export interface Inspection extends Pick<InspectionHub, 'observe' | 'place' | 'viewers'> {
  readonly router: Router;
  /** For the server's `upgrade` event. False when the request is for another path and still wants an answer. */
  handleUpgrade(req: IncomingMessage, socket: Duplex, head: Buffer): boolean;
  close(): void;
}

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
