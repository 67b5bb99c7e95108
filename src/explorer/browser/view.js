import { useCallback, useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';

/** Bounds of the scale. Below the lower one, the smallest text of a drawing would be under 11 px. */
const LEAST = 0.96;
const MOST = 2.4;
const GLIDE_MS = 220;
const STEP_PX = 60;

const within = (value, least, most) => Math.max(least, Math.min(most, value));
const isStill = () => matchMedia('(prefers-reduced-motion: reduce)').matches;

/**
 * Keeps the visible part of a drawing: moved by dragging and by the arrow keys, scaled by buttons, `+` and `-`. While it
 * follows, it moves so that `target` is in the middle; moving it by hand ends that.
 */
export function useView(drawing, target) {
  const frame = useRef(null);
  const [size, setSize] = useState({ width: 0, height: 0 });
  const [view, setView] = useState({ x: drawing.width / 2, y: drawing.height / 2, k: 1 });
  const [follows, setFollows] = useState(true);
  const running = useRef(0);
  const dragged = useRef(null);

  useLayoutEffect(() => {
    const measure = () => setSize({ width: frame.current.clientWidth, height: frame.current.clientHeight });
    const seen = new ResizeObserver(measure);
    seen.observe(frame.current);
    measure();
    return () => seen.disconnect();
  }, []);

  /** Keeps the drawing in sight; a drawing that is smaller than the frame stays in the middle. */
  const bounded = useCallback(
    ({ x, y, k }) => {
      const half = { x: size.width / 2 / k, y: size.height / 2 / k };
      const along = (value, middle, whole) =>
        whole <= 2 * middle ? whole / 2 : within(value, middle - 12 / k, whole - middle + 12 / k);
      return { x: along(x, half.x, drawing.width), y: along(y, half.y, drawing.height), k };
    },
    [size, drawing],
  );
  const glide = useCallback(
    (to) => {
      cancelAnimationFrame(running.current);
      if (isStill()) return setView(bounded(to));
      let from = null;
      let began = 0;
      const next = (now) => {
        setView((view) => {
          from ??= view;
          began ||= now;
          const part = within((now - began) / GLIDE_MS, 0, 1);
          const eased = 1 - (1 - part) ** 3;
          const mix = (a, b) => a + (b - a) * eased;
          if (part < 1) running.current = requestAnimationFrame(next);
          return bounded({ x: mix(from.x, to.x), y: mix(from.y, to.y), k: mix(from.k, to.k) });
        });
      };
      running.current = requestAnimationFrame(next);
    },
    [bounded],
  );
  const goal = target ? `${target.x},${target.y}` : '';
  useEffect(() => {
    if (follows && target && size.width > 0) glide({ ...target, k: view.k });
  }, [goal, follows, size.width]);
  useEffect(() => () => cancelAnimationFrame(running.current), []);

  const move = (x, y) => {
    // A glide that is still running would move the drawing back.
    cancelAnimationFrame(running.current);
    setFollows(false);
    setView((view) => bounded({ x: view.x + x / view.k, y: view.y + y / view.k, k: view.k }));
  };
  const scale = (factor) => setView((view) => bounded({ ...view, k: within(view.k * factor, LEAST, MOST) }));
  const keys = {
    ArrowLeft: () => move(-STEP_PX, 0),
    ArrowRight: () => move(STEP_PX, 0),
    ArrowUp: () => move(0, -STEP_PX),
    ArrowDown: () => move(0, STEP_PX),
    '+': () => scale(1.2),
    '=': () => scale(1.2),
    '-': () => scale(1 / 1.2),
    0: () => setFollows(true),
  };
  return {
    frame,
    view,
    follows,
    setFollows,
    scale,
    canGrow: view.k < MOST,
    canShrink: view.k > LEAST,
    /** Moves a place of the drawing into the middle, if it is out of sight. */
    reveal({ x, y }) {
      const inSight =
        Math.abs(x - view.x) < size.width / 2 / view.k - 30 && Math.abs(y - view.y) < size.height / 2 / view.k - 20;
      if (!inSight) glide({ x, y, k: view.k });
    },
    goTo: (place) => {
      setFollows(false);
      glide({ ...place, k: view.k });
    },
    box: [
      view.x - size.width / 2 / view.k,
      view.y - size.height / 2 / view.k,
      size.width / view.k,
      size.height / view.k,
    ],
    handlers: {
      onKeyDown(event) {
        const act = keys[event.key];
        if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
        event.preventDefault();
        event.stopPropagation();
        act();
      },
      onWheel(event) {
        if (!event.ctrlKey) return;
        event.preventDefault();
        scale(event.deltaY < 0 ? 1.1 : 1 / 1.1);
      },
      onPointerDown(event) {
        if (event.button !== 0) return;
        dragged.current = { x: event.clientX, y: event.clientY, id: event.pointerId };
      },
      onPointerMove(event) {
        const from = dragged.current;
        if (!from || from.id !== event.pointerId) return;
        const [x, y] = [from.x - event.clientX, from.y - event.clientY];
        if (Math.abs(x) + Math.abs(y) < 3) return;
        event.currentTarget.setPointerCapture(event.pointerId);
        dragged.current = { ...from, x: event.clientX, y: event.clientY };
        move(x, y);
      },
      onPointerUp() {
        dragged.current = null;
      },
      onPointerCancel() {
        dragged.current = null;
      },
    },
  };
}
