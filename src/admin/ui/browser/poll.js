import { useCallback, useEffect, useRef, useState } from 'preact/hooks';

/**
 * Asks again and again, the next time only when the last one was answered, and not while nobody looks.
 * What was known of the same thing stays shown while an answer is missing; of another thing (`key`) it does not.
 */
export function usePoll(ask, everyMs, key) {
  const [known, setKnown] = useState({ key: null, data: null, error: null });
  const latest = useRef(ask);
  const again = useRef(() => {});
  latest.current = ask;

  // A new key begins anew; the question itself is read when it is asked.
  useEffect(() => {
    const control = new AbortController();
    let timer = 0;
    let asking = false;
    const run = async () => {
      clearTimeout(timer);
      if (asking || control.signal.aborted) return;
      asking = true;
      try {
        const data = await latest.current(control.signal);
        if (!control.signal.aborted) setKnown({ key, data, error: null });
      } catch (error) {
        if (!control.signal.aborted)
          setKnown((before) => ({ key, data: before.key === key ? before.data : null, error }));
      }
      asking = false;
      if (!control.signal.aborted && !document.hidden) timer = setTimeout(run, everyMs);
    };
    const look = () => {
      if (!document.hidden) run();
    };
    again.current = run;
    document.addEventListener('visibilitychange', look);
    run();
    return () => {
      control.abort();
      clearTimeout(timer);
      document.removeEventListener('visibilitychange', look);
    };
  }, [key, everyMs]);

  const refresh = useCallback(() => again.current(), []);
  const isOurs = known.key === key;
  return { data: isOurs ? known.data : null, error: isOurs ? known.error : null, refresh };
}
