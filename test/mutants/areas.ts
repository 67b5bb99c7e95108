/** What is mutated, and which part of it may keep no survivor. */
interface Area {
  name: string;
  /** Of files, relative to the project. */
  files: RegExp;
  /** Only mutants in functions of these names; everything in the files without. */
  functions?: readonly string[];
  /** A survivor that is not in the list of equivalent mutants is a fault. */
  strict: boolean;
  /** Test files to try first, and the only ones with `--near`. */
  near: RegExp;
}

/** The first that fits a mutant is the mutant's. */
export const areas: readonly Area[] = [
  {
    name: 'fence',
    files: /^src\/store\/postgres\/schema\/(?:fence|workers)\.ts$/,
    strict: true,
    near: /^test\/store\//,
  },
  {
    name: 'sql',
    files: /^src\/store\/postgres\/(?:statements|schema\/purge)\.ts$/,
    strict: false,
    near: /^test\/(?:store|admin)\//,
  },
  {
    name: 'planner',
    files: /^src\/(?:transcript\/(?:planner|continuation|line|read|items|replay)|session\/placement)\.ts$/,
    strict: true,
    near: /^test\/(?:transcript|session|intake|recordings)\//,
  },
  {
    name: 'tenancy',
    files: /^src\/(?:transcript\/provider-ids|upstream\/discreet|http\/authenticate|resolve\/rows\/admission)\.ts$/,
    strict: true,
    near: /^test\/(?:transcript|upstream|http|resolve|hostile\/tenancy)\//,
  },
  {
    name: 'tenancy',
    files: /^src\/http\/app\.ts$/,
    functions: ['aboutResponse', 'ownCursors', 'admit', 'passOn'],
    strict: true,
    near: /^test\/(?:http|hostile\/tenancy)\//,
  },
  {
    name: 'tenancy',
    files: /^src\/session\/facts\.ts$/,
    functions: ['readReferences', 'ownsComparison'],
    strict: true,
    near: /^test\/(?:session|hostile\/tenancy)\//,
  },
  {
    name: 'tenancy',
    files: /^src\/resolve\/situation\.ts$/,
    functions: ['open', 'named', 'survey'],
    strict: true,
    near: /^test\/(?:resolve|hostile\/tenancy)\//,
  },
  {
    name: 'frames',
    files: /^src\/(?:session\/(?:frames|kept)|upstream\/frames)\.ts$/,
    strict: true,
    near: /^test\/(?:upstream|session)\//,
  },
  { name: 'machines', files: /^machines\/(?!index)/, strict: false, near: /^test\/(?:machines|model)\// },
  { name: 'runtime', files: /^src\/runtime\/(?!index)/, strict: false, near: /^test\/(?:runtime|machines)\// },
  { name: 'resolve', files: /^src\/resolve\//, strict: false, near: /^test\/resolve\// },
  { name: 'session', files: /^src\/session\//, strict: false, near: /^test\/(?:session|bridge|field)\// },
  { name: 'transcript', files: /^src\/transcript\//, strict: false, near: /^test\/(?:transcript|recordings)\// },
  { name: 'upstream', files: /^src\/upstream\//, strict: false, near: /^test\/upstream\// },
  { name: 'http', files: /^src\/http\//, strict: false, near: /^test\/(?:http|hostile|field)\// },
  { name: 'intake', files: /^src\/(?:intake\/|faults\.ts$)/, strict: false, near: /^test\/hostile\// },
  { name: 'cluster', files: /^src\/cluster\//, strict: false, near: /^test\/(?:cluster|forward)\// },
];

/** Files in which texts of SQL are mutated too. */
export const holdsSql = /^src\/store\/postgres\/(?:schema\/|statements\.ts$)/;

/** Files of which every object literal is a table, entries of which are taken out. */
export const holdsTables = /^machines\//;

/**
 * Test files that read the sources, write documents from them, need a browser, or measure: they would notice a mutant
 * for a reason that is no behaviour, or take minutes.
 */
export const leftOut =
  /^test\/(?:canaries|docs|mutants|chaos|clients|demo|embedded|fuzz)\/|^test\/(?:admin\/(?:ui|pictures)|observe\/(?:page|deploy|recorded-run)|bridge\/soak|hostile\/edges\/(?:tables|embedded|last-resort)|simulator\/process|observe\/metrics)\.test\.ts$/;

/** The area of a mutant, or undefined for a file that is not mutated. */
export const areaOf = ({ file, within }: { file: string; within: readonly string[] }): Area | undefined =>
  areas.find(
    ({ files, functions }) => files.test(file) && (!functions || functions.some((name) => within.includes(name))),
  );

export const isMutated = (file: string): boolean => areas.some(({ files }) => files.test(file));
