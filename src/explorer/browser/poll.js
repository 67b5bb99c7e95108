import { useCallback, useEffect, useRef, useState } from 'preact/hooks';

/**
 * Polls repeatedly. The next request starts `everyMs` milliseconds after the previous answer, and none while the page
 * is hidden. After an error, the last data of the same `key` stays available; data of another key does not.
 */
export function usePoll(ask, everyMs, key) {
  const [known, setKnown] = useState({ key: null, data: null, error: null });
  const latest = useRef(ask);
  const again = useRef(() => {});
  latest.current = ask;

  // Restart only when `key` or `everyMs` changes; the current request function is read from the ref at each request.
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
