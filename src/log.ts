/** The part of a logger that a piece of code uses: its levels, with pino's signature. */
export type Log<Level extends 'debug' | 'info' | 'warn' | 'error'> = Record<
  Level,
  (fields: object, message: string) => void
>;
