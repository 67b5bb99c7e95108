import { describe, expect, it } from 'vitest';
import type { UpstreamAnswer } from '../../src/upstream/port.ts';
import { FrameFlow } from '../../src/upstream/streams.ts';

const start = () => {
  const log: string[] = [];
  const flow = new FrameFlow({
    hold: (held) => log.push(held ? 'hold' : 'go on'),
    broken: () => log.push('broken'),
  });
  const reader = {
    frame: (text: string) => void log.push(text),
    closed: (info: { code: number }) => void log.push(`closed ${info.code}`),
  };
  return { flow, log, reader };
};
const answer: UpstreamAnswer = { status: 418, headers: {}, body: Buffer.alloc(0) };

describe('the receiving side of a connection', () => {
  it('The receiver keeps everything until a reader attaches', () => {
    const { flow, log, reader } = start();
    flow.frame('a');
    flow.refused(answer);
    flow.close(1000, '');
    expect(log).toEqual([]);
    flow.attach(reader);
    expect(log).toEqual(['a', expect.stringContaining('"status":418'), 'closed 1000', 'go on']);
  });

  it('The receiver reports only the first end, and nothing after it', () => {
    const { flow, log, reader } = start();
    flow.attach(reader);
    flow.close(1001, '');
    flow.close(1006, '');
    flow.frame('late');
    flow.resume();
    expect(log).toEqual(['go on', 'closed 1001']);
  });

  it('The receiver stops between buffered frames when the reader pauses from inside a frame', () => {
    const { flow, log, reader } = start();
    for (const text of ['a', 'b', 'c']) flow.frame(text);
    flow.attach({
      ...reader,
      frame(text) {
        log.push(text);
        flow.pause();
        flow.frame(`after ${text}`);
      },
    });
    expect(log).toEqual(['a']);
    flow.resume();
    expect(log).toEqual(['a', 'b']);
  });

  it('The receiver pauses the network exactly while frames wait', () => {
    const { flow, log, reader } = start();
    flow.attach(reader);
    flow.pause();
    flow.pause();
    flow.frame('a');
    flow.resume();
    flow.resume();
    expect(log).toEqual(['go on', 'hold', 'a', 'go on']);
  });

  it('A muted receiver continues to read, passes no frame on, and still reports the end to a paused reader', () => {
    const { flow, log, reader } = start();
    flow.attach(reader);
    flow.pause();
    flow.frame('a');
    flow.mute();
    flow.frame('b');
    flow.refused(answer);
    flow.close(1000, '');
    expect(log).toEqual(['go on', 'hold', 'go on', 'closed 1000']);
  });

  it('The receiver ends the connection of a reader that throws, and still reports the end to it', () => {
    const { flow, log, reader } = start();
    for (const text of ['a', 'bad', 'b']) flow.frame(text);
    const careless = {
      ...reader,
      frame(text: string) {
        if (text === 'bad') throw new Error('reader');
        log.push(text);
      },
    };
    flow.attach(careless);
    flow.frame('c');
    flow.close(1006, '');
    expect(log).toEqual(['a', 'broken', 'go on', 'closed 1006']);
  });
});
