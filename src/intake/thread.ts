import { parentPort } from 'node:worker_threads';
import { BridgeError } from '../errors.ts';
import { type Answer, flatten, type Job, readSource } from './read.ts';

/** Entry point of the thread that reads large bodies, one at a time. Its answers hold no values, see `Flat`. */
parentPort?.on('message', ({ parts, kind, named }: Job) => {
  let answer: Answer;
  const transfer: ArrayBufferLike[] = [];
  try {
    const flat = flatten(
      readSource(typeof parts === 'string' ? parts : Buffer.concat(parts), kind, { whole: true, named }),
    );
    transfer.push(flat.spans.buffer, flat.marks.buffer, flat.othersBefore.buffer, flat.memberPlaces.buffer);
    answer = { flat };
  } catch (error) {
    answer =
      error instanceof BridgeError
        ? { refused: { code: error.code, param: error.param, detail: error.detail } }
        : { failed: error instanceof Error ? (error.stack ?? error.message) : String(error) };
  }
  parentPort!.postMessage(answer, transfer as never);
});
