// What the tables of faults are written with: a correct configuration in pieces, to which one fault is added.

/** Name of the fault, the file, and the exact problems: FILE is the file's name. */
export type Fault = readonly [name: string, toml: string, ...problems: string[]];

/** Stands in the files wherever a secret could stand; no message may hold it. */
export const CANARY = 'CANARY-3f9c81';

export const API = `[providers.api]
base_url = "https://api.example"
credential = "none"
endpoints = []
`;

export const LISTENER = `[[listeners]]
name = "agent-1"
`;

/** A provider with one line more. */
export const provider = (line: string): string => `${API}${line}\n`;

/** A listener with one line more. */
export const listener = (line: string): string => `${API}${LISTENER}${line}\n`;

/** A provider at this base URL. */
export const url = (text: string, more = ''): string => `${API.replace('https://api.example', text)}${more}`;

/** A provider with this credential, in its fourth line. */
export const credential = (value: string): string =>
  `[providers.api]\nbase_url = "https://api.example"\nendpoints = []\ncredential = ${value}\n`;

/** A provider with these endpoints. */
export const endpoints = (list: string): string => API.replace('[]', () => list);

export const limits = (line: string): string => `[limits]\n${line}\n`;
