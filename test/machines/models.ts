import { type MachineModel, sessionModel, turnModel, workerModel } from '../../src/testing/index.ts';

export const models = [sessionModel, turnModel, workerModel] as unknown as MachineModel[];
