// Facts about APIs, as data: where the credential goes, what a key and a client look like, and the calls that
// an agent needs. The endpoints are inference only (GitHub: read only): no files, batches, stored responses,
// keys, billing or administration; no images or audio, which are inference too but cost far more a call, and no
// coding agent needs them to run; no WebSocket variants. What is missing is one `extra_endpoints` line away:
// { methods = ["GET"], paths = ["/v1/realtime"], websocket = true } for OpenAI's Realtime API, "/v1/responses" for
// the WebSocket of Codex.

import { MORE_PRESETS } from './presets-more.ts';

/** One allow-list entry; paths are relative to `base_url`, in the pattern language of the endpoint rules. */
export interface PresetEndpoint {
  readonly methods: readonly string[];
  readonly paths: readonly string[];
  readonly query?: readonly string[];
  readonly websocket?: boolean;
  readonly allow_encoded_slash?: boolean;
}

export interface Preset {
  readonly title: string;
  /** The API documentation the facts are from. */
  readonly source: string;
  /** The day they were checked. */
  readonly checked: string;
  /** `tried`: the API's official client ran through isoproxy against a local upstream. */
  readonly evidence: 'tried' | 'docs';
  readonly base_url: string;
  readonly credential:
    | { readonly header: string; readonly format: string }
    | { readonly query: string }
    | { readonly basic: string };
  /** Public beginnings of keys: the longest that fits is not counted by the reflection guard. */
  readonly secret_prefixes: readonly string[];
  readonly endpoints: readonly PresetEndpoint[];
  /** Headers (lower-case) that would choose another account, organisation or payer. */
  readonly strip_headers: readonly string[];
  /** Query parameters (lower-case) that carry a credential or choose who pays. */
  readonly strip_query: readonly string[];
  readonly headers?: Readonly<Record<string, string>>;
  readonly default_headers?: Readonly<Record<string, string>>;
  /** What the client inside the sandbox holds instead of a key. */
  readonly placeholder: string;
  /** Environment that `run` sets; `{client_base_url}` has no trailing slash. */
  readonly client_env: Readonly<Record<string, string>>;
  /** Command name -> arguments that go before the user's. */
  readonly client_args?: Readonly<Record<string, readonly string[]>>;
  readonly limits?: Readonly<Record<string, string>>;
}

const CHECKED = '2026-11-23';
const FAKE = 'isoproxy-placeholder-not-a-real-key';
const BEARER = { header: 'authorization', format: 'Bearer {secret}' };

const ANTHROPIC_ENDPOINTS: readonly PresetEndpoint[] = [
  { methods: ['POST'], paths: ['/v1/messages', '/v1/messages/count_tokens'] },
  { methods: ['GET'], paths: ['/v1/models', '/v1/models/*'] },
];
// The user profile names the customer that is billed; x-organization-uuid is Claude Code's choice of organisation.
const ANTHROPIC_STRIP = [
  'anthropic-workspace-id',
  'anthropic-organization-id',
  'anthropic-user-profile-id',
  'x-organization-uuid',
];

export const PRESETS: Readonly<Record<string, Preset>> = {
  anthropic: {
    title: 'Anthropic API',
    source: 'https://platform.claude.com/docs/en/api/overview',
    checked: CHECKED,
    evidence: 'tried',
    base_url: 'https://api.anthropic.com',
    credential: { header: 'x-api-key', format: '{secret}' },
    secret_prefixes: ['sk-ant-api03-', 'sk-ant-admin01-', 'sk-ant-'],
    endpoints: ANTHROPIC_ENDPOINTS,
    strip_headers: ANTHROPIC_STRIP,
    strip_query: [],
    placeholder: `sk-ant-api03-${FAKE}`,
    client_env: {
      ANTHROPIC_BASE_URL: '{client_base_url}',
      ANTHROPIC_API_KEY: '{placeholder}',
      CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: '1',
    },
  },

  'anthropic-oauth': {
    title: 'Anthropic API with the token of `claude setup-token`',
    source: 'https://code.claude.com/docs/en/authentication',
    checked: CHECKED,
    evidence: 'tried',
    base_url: 'https://api.anthropic.com',
    credential: BEARER,
    secret_prefixes: ['sk-ant-oat01-', 'sk-ant-'],
    endpoints: ANTHROPIC_ENDPOINTS,
    strip_headers: ANTHROPIC_STRIP,
    strip_query: [],
    // The API takes this kind of token only with this beta. Claude Code lists it among its other betas, which a
    // header that is always set would replace; this one is for a client that sends none.
    default_headers: { 'anthropic-beta': 'oauth-2025-04-20' },
    placeholder: `sk-ant-oat01-${FAKE}`,
    // Not ANTHROPIC_AUTH_TOKEN: with that one Claude Code leaves the beta out.
    client_env: {
      ANTHROPIC_BASE_URL: '{client_base_url}',
      CLAUDE_CODE_OAUTH_TOKEN: '{placeholder}',
      CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: '1',
    },
  },

  openai: {
    title: 'OpenAI API',
    source: 'https://platform.openai.com/docs/api-reference/introduction',
    checked: CHECKED,
    evidence: 'tried',
    base_url: 'https://api.openai.com',
    credential: BEARER,
    secret_prefixes: ['sk-proj-', 'sk-svcacct-', 'sk-admin-', 'sk-None-', 'sk-'],
    endpoints: [
      {
        methods: ['POST'],
        paths: [
          '/v1/chat/completions',
          '/v1/completions',
          '/v1/responses',
          '/v1/responses/compact',
          '/v1/responses/input_tokens',
          '/v1/embeddings',
          '/v1/moderations',
        ],
      },
      { methods: ['GET'], paths: ['/v1/models', '/v1/models/*'] },
    ],
    strip_headers: [
      'openai-organization',
      'openai-project',
      'chatgpt-account-id',
      'x-openai-account-routing-override',
      'x-openai-actor-authorization',
      'x-openai-agent-assertion',
    ],
    strip_query: [],
    placeholder: `sk-proj-${FAKE}`,
    client_env: { OPENAI_BASE_URL: '{client_base_url}/v1', OPENAI_API_KEY: '{placeholder}' },
    // Codex ignores OPENAI_BASE_URL. A provider of its own also keeps it off the WebSocket that the built-in one
    // tries several times before it falls back to HTTP.
    client_args: {
      codex: [
        '-c',
        'model_provider="isoproxy"',
        '-c',
        'model_providers.isoproxy={name="isoproxy",base_url="{client_base_url}/v1",env_key="OPENAI_API_KEY",wire_api="responses"}',
      ],
    },
  },

  // What the token can read bounds this: use a fine-grained one for the repositories at hand. Left out on purpose:
  // /repos/*/*/… of secret-scanning, actions/variables, environments, hooks, keys (live secrets and settings),
  // /user/* (keys, e-mail), /gists, /notifications, archives and logs (redirects to signed URLs), and the repository
  // itself: a pattern for /repos/OWNER/NAME allows all below it; /search/repositories?q=repo:OWNER/NAME has it.
  github: {
    title: 'GitHub REST API, read only',
    source: 'https://docs.github.com/en/rest',
    checked: CHECKED,
    evidence: 'tried',
    base_url: 'https://api.github.com',
    credential: BEARER,
    secret_prefixes: ['github_pat_', 'ghp_', 'gho_', 'ghu_', 'ghs_', 'ghr_'],
    endpoints: [
      {
        methods: ['GET'],
        paths: [
          '/user',
          '/rate_limit',
          '/orgs/*/repos',
          '/users/*/repos',
          '/search/code',
          '/search/commits',
          '/search/issues',
          '/search/repositories',
          '/repos/*/*/actions/runs',
          '/repos/*/*/actions/runs/*/jobs',
          '/repos/*/*/actions/workflows',
          '/repos/*/*/branches',
          '/repos/*/*/branches/*',
          '/repos/*/*/commits',
          '/repos/*/*/commits/*',
          '/repos/*/*/compare/*',
          '/repos/*/*/contents/*',
          '/repos/*/*/contributors',
          '/repos/*/*/git/*',
          '/repos/*/*/issues',
          '/repos/*/*/issues/*',
          '/repos/*/*/labels',
          '/repos/*/*/languages',
          '/repos/*/*/license',
          '/repos/*/*/milestones',
          '/repos/*/*/pulls',
          '/repos/*/*/pulls/*',
          '/repos/*/*/readme',
          '/repos/*/*/releases',
          '/repos/*/*/releases/*',
          '/repos/*/*/tags',
          '/repos/*/*/topics',
          // Further pages: Link headers name a repository by its id.
          '/repositories/*/branches',
          '/repositories/*/commits',
          '/repositories/*/contributors',
          '/repositories/*/issues',
          '/repositories/*/issues/*/comments',
          '/repositories/*/labels',
          '/repositories/*/milestones',
          '/repositories/*/pulls',
          '/repositories/*/releases',
          '/repositories/*/tags',
        ],
        // Octokit writes the slashes of file paths and branch names as %2F.
        allow_encoded_slash: true,
      },
    ],
    strip_headers: ['x-github-otp'],
    strip_query: ['access_token', 'client_id', 'client_secret'],
    placeholder: `ghp_${FAKE}`,
    client_env: { GITHUB_API_URL: '{client_base_url}', GITHUB_TOKEN: '{placeholder}' },
  },

  google: {
    title: 'Gemini API',
    source: 'https://ai.google.dev/gemini-api/docs/api-key',
    checked: CHECKED,
    evidence: 'tried',
    base_url: 'https://generativelanguage.googleapis.com',
    credential: { header: 'x-goog-api-key', format: '{secret}' },
    secret_prefixes: ['AQ.Ab', 'AQ.', 'AIzaSy', 'AIza'],
    endpoints: [
      // Google's client for TypeScript asks for v1beta, the one for Python (3.4.0) for v1.
      {
        methods: ['POST'],
        paths: [
          '/v1beta/models/*:generateContent',
          '/v1beta/models/*:streamGenerateContent',
          '/v1beta/models/*:countTokens',
          '/v1beta/models/*:embedContent',
          '/v1beta/models/*:batchEmbedContents',
          '/v1/models/*:generateContent',
          '/v1/models/*:streamGenerateContent',
          '/v1/models/*:countTokens',
          '/v1/models/*:embedContent',
          '/v1/models/*:batchEmbedContents',
        ],
      },
      { methods: ['GET'], paths: ['/v1beta/models', '/v1beta/models/*', '/v1/models', '/v1/models/*'] },
    ],
    strip_headers: ['x-goog-user-project', 'x-goog-quota-user', 'x-goog-iam-authorization-token'],
    // From https://cloud.google.com/apis/docs/system-parameters, its older versions, and $httpHeaders and
    // $httpMethod, with which Google's web clients put a header or the method into the query.
    strip_query: [
      'key',
      '$key',
      'access_token',
      'oauth_token',
      'bearer_token',
      '$userproject',
      'quotauser',
      '$quotauser',
      'passwd',
      'password',
      '$httpheaders',
      '$httpmethod',
    ],
    placeholder: `AQ.${FAKE}`,
    client_env: { GOOGLE_GEMINI_BASE_URL: '{client_base_url}', GEMINI_API_KEY: '{placeholder}' },
  },

  ...MORE_PRESETS,
};
