/** A part of the sources to mutate, and whether it may have survivors. */
interface Area {
  name: string;
  /** Matches file paths relative to the project. */
  files: RegExp;
  /** Restricts mutation to functions of these names; without it the whole file is mutated. */
  functions?: readonly string[];
  /** True if a survivor that is not in the list of equivalent mutants is a failure. */
  strict: boolean;
  /** Test files to try first; with `--near` the only ones. */
  near: RegExp;
}

/** The first area that matches a mutant applies. */
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
    files: /^src\/(?:transcript\/(?:planner|read|items)|session\/planning)\.ts$/,
    strict: true,
    near: /^test\/(?:transcript|session|hostile\/intake|recordings)\//,
  },
  {
    name: 'tenancy',
    files: /^src\/(?:transcript\/provider-ids|upstream\/redact)\.ts$/,
    strict: true,
    near: /^test\/(?:transcript|upstream|http|resolve|hostile\/tenancy)\//,
  },
  {
    name: 'tenancy',
    files: /^src\/http\/app\.ts$/,
    functions: ['aboutResponse', 'ownCursors', 'admit', 'passOn', 'keysIn', 'createAuthentication'],
    strict: true,
    near: /^test\/(?:http\/|hostile\/tenancy\/|field\/accounts\.|surface\/)/,
  },
  {
    name: 'tenancy',
    files: /^src\/resolve\/table\.ts$/,
    functions: ['unsettledAt', 'admissionRows'],
    strict: true,
    near: /^test\/(?:resolve|hostile\/tenancy)\//,
  },
  {
    name: 'tenancy',
    files: /^src\/session\/decide\.ts$/,
    functions: ['readReferences', 'ownsComparison'],
    strict: true,
    near: /^test\/(?:session\/|hostile\/tenancy\/|bridge\/(?:named-)?contents\.)/,
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
    files: /^src\/(?:session|upstream)\/frames\.ts$/,
    strict: true,
    near: /^test\/(?:upstream|session)\//,
  },
  {
    name: 'frames',
    files: /^src\/session\/commits\.ts$/,
    functions: ['keptItem', 'saysNothing', 'keptId', 'word', 'keptUsage', 'keptError'],
    strict: true,
    near: /^test\/(?:upstream|session)\//,
  },
  { name: 'machines', files: /^machines\/(?!index)/, strict: false, near: /^test\/(?:machines|model)\// },
  { name: 'runtime', files: /^src\/runtime\/(?!index)/, strict: false, near: /^test\/(?:runtime|machines)\// },
  { name: 'resolve', files: /^src\/resolve\//, strict: false, near: /^test\/resolve\// },
  {
    name: 'session',
    files: /^src\/session\//,
    strict: false,
    near: /^test\/(?:session|bridge|field|hostile\/fairness)\//,
  },
  { name: 'upstream', files: /^src\/upstream\//, strict: false, near: /^test\/upstream\// },
  { name: 'http', files: /^src\/http\//, strict: false, near: /^test\/(?:http|hostile|field|surface)\// },
  { name: 'intake', files: /^src\/(?:intake\/|faults\.ts$)/, strict: false, near: /^test\/hostile\// },
  { name: 'cluster', files: /^src\/cluster\//, strict: false, near: /^test\/cluster\// },
];

/** Files in which SQL text is mutated too. */
export const holdsSql = /^src\/store\/postgres\/(?:schema\/|statements\.ts$)/;

/** Files of which every object literal is a table whose entries are removed. */
export const holdsTables = /^machines\//;

/**
 * Test files that read the sources, write documents from them, need a browser, or measure: they would detect a mutant
 * for a reason other than behaviour, or take minutes.
 */
export const leftOut =
  /^test\/(?:canaries|docs|mutants|chaos|clients|demo|embedded|explorer|fuzz)\/|^test\/(?:observe\/(?:page|deploy|recorded-run)|bridge\/soak|hostile\/edges\/(?:tables|embedded|last-resort)|simulator\/process|observe\/metrics)\.test\.ts$/;

/** Returns the area of a mutant; undefined for a file that is not mutated. */
export const areaOf = ({ file, within }: { file: string; within: readonly string[] }): Area | undefined =>
  areas.find(
    ({ files, functions }) => files.test(file) && (!functions || functions.some((name) => within.includes(name))),
  );

export const isMutated = (file: string): boolean => areas.some(({ files }) => files.test(file));
