import { sweepOver } from './sweeping.ts';

/** Runs one test file for many mutants: every suite has its own instances of all modules. */
sweepOver(async ({ file }) => void (await import(`../../${file}`)));
