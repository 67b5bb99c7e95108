import { sweepOver } from './sweeping.ts';

/** One test file for many mutants: every suite has instances of its own of all modules. */
sweepOver(async (file) => void (await import(`../../${file}`)));
