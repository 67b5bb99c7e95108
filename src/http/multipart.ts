import type { IncomingMessage } from 'node:http';
import { PassThrough, type Readable } from 'node:stream';
import { Busboy, type BusboyFileStream } from '@fastify/busboy';
import { BridgeError } from '../errors.ts';

/** Limits of one form. A prompt for an image has at most some ten thousand characters. */
const FIELDS = 256;
const FILES = 64;
const FIELD_BYTES = 1_048_576;
const NAME_BYTES = 256;

/** A value that a provider may parse as JSON: then every word in it is judged. */
const WRAPPED = /[{["]/;

type Fields = Record<string, unknown>;

export interface FormOptions {
  /** Text that separates the parts sent upstream. */
  boundary: string;
  /**
   * Checks a field before it is sent.
   *
   * @param fields an object that holds this field only, in the shape that a JSON body would have
   * @throws {BridgeError} to refuse the form
   */
  check(fields: Readonly<Fields>): Promise<void>;
  /** Called with the number of bytes of each chunk as it arrives. May throw {@link BridgeError} to refuse the form. */
  count(bytes: number): void;
}

/**
 * Writes a form again while it is read. The provider gets parts with names, values and file names of this bridge's own
 * writing, so that it cannot read the form differently from the check. Its files are never held: memory stays flat for a form
 * of any size.
 *
 * The returned stream is destroyed with the {@link BridgeError} of a refusal. The provider then never gets the end of its
 * body, so it cannot act on what came before.
 */
export function rewriteForm(req: IncomingMessage, options: FormOptions): Readable {
  const { boundary, check, count } = options;
  const out = new PassThrough();
  const malformed = (detail: string) => out.destroy(new BridgeError('bridge_invalid_request', { detail }));
  const busboy = open();
  if (busboy === null) {
    malformed('The form is not well-formed.');
    return out;
  }
  /** Parts are written one after the other, in the order in which they arrived. */
  let line = Promise.resolve();
  const next = (write: () => Promise<void>) => {
    line = line.then(async () => {
      if (!out.destroyed) await write();
    });
    line.catch((error) => out.destroy(error));
  };
  const put = async (chunk: Buffer | string) => {
    if (out.write(chunk) || out.destroyed) return;
    await new Promise<void>((go) => {
      const done = () => {
        out.off('drain', done).off('close', done);
        go();
      };
      out.on('drain', done).on('close', done);
    });
  };
  const head = (name: string, more: string) =>
    `--${boundary}\r\ncontent-disposition: form-data; name="${quoted(name)}"${more}\r\n\r\n`;

  busboy.on('field', (name: string, value: string, nameCut: boolean, valueCut: boolean) => {
    if (nameCut || valueCut) return void malformed('A field of the form is too long.');
    next(async () => {
      await check(nested(name, WRAPPED.test(value) ? value.split(/[^\w-]+/) : value));
      await put(`${head(name, '')}${value}\r\n`);
    });
  });
  busboy.on('file', (name: string, file: BusboyFileStream, filename: string | undefined, _encoding, type: string) => {
    const media = /^[\w.+-]+\/[\w.+-]+$/.test(type) ? type : 'application/octet-stream';
    file.on('error', () => {});
    next(async () => {
      // Where the name asks for an id, no file is accepted: a provider could read its content as the id.
      await check(nested(name, 'file'));
      await put(head(name, `; filename="${quoted(filename ?? 'file')}"\r\ncontent-type: ${media}`));
      for await (const chunk of file) {
        await put(chunk as Buffer);
        if (out.destroyed) return;
      }
      await put('\r\n');
    });
  });
  for (const [event, what] of [
    ['partsLimit', 'parts'],
    ['filesLimit', 'files'],
    ['fieldsLimit', 'fields'],
  ] as const) {
    busboy.on(event, () => malformed(`The form has too many ${what}.`));
  }
  busboy.on('error', () => malformed('The form is not well-formed.'));
  busboy.on('finish', () =>
    next(async () => {
      await put(`--${boundary}--\r\n`);
      out.end();
    }),
  );
  const counted = (chunk: Buffer) => {
    try {
      count(chunk.length);
    } catch (error) {
      out.destroy(error as Error);
    }
  };
  req.on('data', counted);
  req.pipe(busboy);
  // A client that leaves ends the body without its last boundary.
  req.once('close', () => {
    if (!req.complete) out.destroy();
  });
  out.once('close', () => {
    req.off('data', counted);
    req.unpipe(busboy);
    busboy.destroy();
  });
  return out;

  function open(): InstanceType<typeof Busboy> | null {
    try {
      return new Busboy({
        headers: { ...req.headers, 'content-type': String(req.headers['content-type']) },
        limits: {
          fields: FIELDS,
          files: FILES,
          parts: FIELDS + FILES,
          fieldSize: FIELD_BYTES,
          fieldNameSize: NAME_BYTES,
          headerPairs: 16,
          headerSize: 8_192,
        },
      });
    } catch {
      return null;
    }
  }
}

/** Returns a name as a quoted parameter holds it. */
const quoted = (name: string) => name.replace(/["\r\n\\]/g, (sign) => (sign === '"' ? '%22' : '_'));

/** Returns the member that a field of a form is in a JSON body: `a[b][]` with a value is `{a: {b: [value]}}`. */
function nested(name: string, value: unknown): Fields {
  const [first = '', ...rest] = name.split('[').map((piece) => piece.replace(/\]$/, ''));
  let inner: unknown = value;
  for (const piece of rest.reverse()) {
    if (piece === '' || /^\d+$/.test(piece)) inner = [inner];
    else inner = Object.assign(Object.create(null) as Fields, { [piece]: inner });
  }
  return { [first]: inner };
}
