/**
 * Answers that a client asks for at its first start and that nobody can give without a network. Only what is absent
 * is written, and what is a decision of the user (theme, trust in a folder) stays one.
 */
import { randomUUID } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';

type Environment = Readonly<Record<string, string | undefined>>;

/** What was done, or why it could not be; sentences for the user. */
export interface Seeded {
  readonly notes: readonly string[];
  readonly warnings: readonly string[];
}

const NOTHING: Seeded = { notes: [], warnings: [] };

/** Seeds for `command`, which will run with `env`. */
export function seedClient(command: string, env: Environment): Seeded {
  return basename(command) === 'claude' ? seedClaude(env) : NOTHING;
}

/** Of a key, Claude Code keeps as approved only so many last characters. */
const CLAUDE_SUFFIX = 20;

interface ClaudeState {
  hasCompletedOnboarding?: boolean;
  customApiKeyResponses?: { approved?: string[]; rejected?: string[] };
  [key: string]: unknown;
}

/**
 * On a fresh HOME, Claude Code asks api.anthropic.com itself whether it is there, whatever the base URL, and exits 1
 * if it is not; `claude -p` does not. An approved API key, or a finished onboarding where there is an OAuth token,
 * spares it that and the login screen (seen with 2.1.197).
 */
function seedClaude(env: Environment): Seeded {
  const key = env['ANTHROPIC_API_KEY'];
  if (!key && !env['CLAUDE_CODE_OAUTH_TOKEN']) return NOTHING;
  const file = claudeStateFile(env);
  if (file === undefined) return NOTHING;
  let state: ClaudeState | undefined;
  try {
    state = readState(file);
  } catch (error) {
    return warning(`${file} cannot be read (${codeOf(error)}): interactive Claude Code may not start`);
  }
  if (state === undefined)
    return warning(`${file} does not hold what Claude Code keeps there, so nothing was added to it`);
  if (!key) {
    if (state.hasCompletedOnboarding) return NOTHING;
    return write(file, { ...state, hasCompletedOnboarding: true }, 'onboarding marked as done');
  }
  const suffix = key.slice(-CLAUDE_SUFFIX);
  const answers = state.customApiKeyResponses ?? {};
  if (answers.approved?.includes(suffix)) return NOTHING;
  if (answers.rejected?.includes(suffix))
    return warning(`${file}: this placeholder key was rejected in Claude Code; remove it there`);
  const approved = [...(answers.approved ?? []), suffix];
  return write(
    file,
    { ...state, customApiKeyResponses: { ...answers, approved } },
    'the placeholder key approved',
  );
}

/** `.config.json` of the configuration directory wins if it is there; else `.claude.json`, which HOME has by default. */
function claudeStateFile(env: Environment): string | undefined {
  const home = env['HOME'];
  const directory = env['CLAUDE_CONFIG_DIR'] || undefined;
  if (directory === undefined && !home) return undefined;
  const first = join(directory ?? join(home as string, '.claude'), '.config.json');
  return existsSync(first) ? first : join(directory ?? (home as string), '.claude.json');
}

/**
 * An absent file is an empty state; undefined for one that holds something else.
 * @throws when it is there and cannot be read: replacing it would lose what it holds
 */
function readState(file: string): ClaudeState | undefined {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return {};
    throw error;
  }
  try {
    const state: unknown = JSON.parse(text);
    return isTable(state) && hasKnownAnswers(state) ? state : undefined;
  } catch {
    return undefined;
  }
}

const isTable = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

function hasKnownAnswers(state: Record<string, unknown>): boolean {
  const answers = state['customApiKeyResponses'];
  if (answers === undefined) return true;
  const isList = (value: unknown) => value === undefined || Array.isArray(value);
  return isTable(answers) && isList(answers['approved']) && isList(answers['rejected']);
}

function write(file: string, state: ClaudeState, what: string): Seeded {
  // A link, as from a home that is kept elsewhere, stays one.
  const target = existsSync(file) ? realpathSync(file) : file;
  const temporary = `${target}.${randomUUID()}`;
  try {
    mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
    writeFileSync(temporary, `${JSON.stringify(state, null, 2)}\n`, { mode: 0o600, flag: 'wx' });
    renameSync(temporary, target);
  } catch (error) {
    rmSync(temporary, { force: true });
    return warning(`${file} cannot be written (${codeOf(error)}): interactive Claude Code may not start`);
  }
  return { notes: [`claude cannot start without a network as it is; in ${file}: ${what}`], warnings: [] };
}

const warning = (text: string): Seeded => ({ notes: [], warnings: [text] });
const codeOf = (error: unknown): string => (error as { code?: string }).code ?? 'no code';
