/**
 * A client that `npm run test:clients` drives. Each has a file in this folder that exports one, and its line in `run.ts`.
 */
export interface Client {
  /** Name in the table. `npm run test:clients -- NAME` runs only the clients whose name contains NAME. */
  readonly name: string;
  /** Page of `docs/clients` about it, without the extension. */
  readonly page: string;
  /** Number of requests that the client sends beside the conversation, such as for a title. Default 0. */
  readonly besides?: number;
  /** Directive to the simulated model for one call of a tool of this client. Default: `[call:weather {"city":"Oslo"}]`. */
  readonly toolCall?: string;
  /**
   * Installs the client, once.
   *
   * @param scratch folder that is kept between runs
   * @returns the versions for the table, such as `ai 7.0.173`
   * @throws Error with the reason why it cannot be installed here; the client is then skipped
   */
  install(scratch: string): Promise<string>;
  readonly modes: readonly Mode[];
  /**
   * Runs what its page shows, each part to an answer. Absent where `npm test` runs the page.
   *
   * @param at `baseURL` has no path here: it replaces the address in the page
   * @returns the output of each part
   */
  runPage?(at: Opening): Promise<string[]>;
}

/** One way to use a client. */
export interface Mode {
  readonly transport: 'HTTP' | 'WebSocket';
  /** Addition to the name of the client in messages, such as `streamText`. */
  readonly name?: string;
  /** True if the client asks for a stream. */
  readonly streams: boolean;
  /** True if the client sends back other items than it was given, so that every request is a conversation of its own. */
  readonly rewrites?: boolean;
  open(at: Opening): Promise<Conversation>;
}

/** What a conversation is opened with. */
export interface Opening {
  /** Base URL for the client, with `/v1`. */
  readonly baseURL: string;
  /** A key of its own for each conversation. */
  readonly apiKey: string;
  /** Folder that `install` was given. */
  readonly scratch: string;
  /** An empty folder that is deleted after the conversation. */
  readonly home: string;
}

/** A conversation of a client, which runs the tools that the model asks for. */
export interface Conversation {
  /**
   * Takes one user turn to its end.
   *
   * @returns the text of the final answer
   * @throws Error when the client gives up; the same turn is then asked again
   */
  ask(text: string): Promise<string>;
  close(): Promise<void> | void;
}

/** Reports one check. */
export type Check = (label: string, ok: boolean, detail?: string) => void;

/** Results of one mode. */
export interface Row {
  readonly transport: Mode['transport'];
  readonly tools: boolean;
  readonly streams: boolean;
  /**
   * The turns in whose middle the worker was killed: `unnoticed` if the client took them to their end, `asked again` if the
   * program had to ask again. Null if one of them did not end well.
   */
  readonly killed: string | null;
  /** Requests to the provider, and those that carried only new items. */
  readonly requests: number;
  readonly deltas: number;
}
