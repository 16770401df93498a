// The inference APIs that want one bearer token: the second half of the preset table (presets.ts says what the
// fields mean and what is left out). Where the official client reads no base URL from the environment, the
// variable is LiteLLM's (`*_API_BASE`).

const FAKE = 'isoproxy-placeholder-not-a-real-key';

/** What these share; where nothing else is said, no header or parameter is known that chooses an account. */
const COMMON = {
  checked: '2026-11-23',
  evidence: 'docs',
  credential: { header: 'authorization', format: 'Bearer {secret}' },
  strip_headers: [],
  strip_query: [],
} as const;

const OPENAI_MODELS = { methods: ['GET'], paths: ['/v1/models', '/v1/models/*'] };

export const MORE_PRESETS = {
  openrouter: {
    ...COMMON,
    title: 'OpenRouter',
    source: 'https://openrouter.ai/docs/api-reference/overview',
    base_url: 'https://openrouter.ai/api',
    secret_prefixes: ['sk-or-v1-', 'sk-or-'],
    endpoints: [
      {
        methods: ['POST'],
        paths: ['/v1/chat/completions', '/v1/completions', '/v1/responses', '/v1/messages', '/v1/embeddings'],
      },
      OPENAI_MODELS,
    ],
    placeholder: `sk-or-v1-${FAKE}`,
    client_env: { OPENROUTER_API_BASE: '{client_base_url}/v1', OPENROUTER_API_KEY: '{placeholder}' },
  },

  // Not /v1/agents and /v1/conversations: agents carry connectors, which act with credentials of their own.
  mistral: {
    ...COMMON,
    title: 'Mistral API',
    source: 'https://docs.mistral.ai/api',
    base_url: 'https://api.mistral.ai',
    secret_prefixes: [],
    endpoints: [
      { methods: ['POST'], paths: ['/v1/chat/completions', '/v1/fim/completions', '/v1/embeddings'] },
      { methods: ['POST'], paths: ['/v1/moderations', '/v1/chat/moderations'] },
      OPENAI_MODELS,
    ],
    placeholder: FAKE,
    client_env: { MISTRAL_API_BASE: '{client_base_url}/v1', MISTRAL_API_KEY: '{placeholder}' },
  },

  groq: {
    ...COMMON,
    title: 'Groq API',
    source: 'https://console.groq.com/docs/api-reference',
    base_url: 'https://api.groq.com',
    secret_prefixes: ['gsk_'],
    endpoints: [
      {
        methods: ['POST'],
        paths: ['/openai/v1/chat/completions', '/openai/v1/responses', '/openai/v1/embeddings'],
      },
      { methods: ['GET'], paths: ['/openai/v1/models', '/openai/v1/models/*'] },
    ],
    placeholder: `gsk_${FAKE}`,
    client_env: { GROQ_BASE_URL: '{client_base_url}', GROQ_API_KEY: '{placeholder}' },
  },

  // The router, not the Hub: a token reaches models here, no repositories. One route serves every provider
  // (`model:provider`); the clients' own routes per provider stay closed.
  huggingface: {
    ...COMMON,
    title: 'Hugging Face Inference Providers',
    source: 'https://huggingface.co/docs/inference-providers/index',
    base_url: 'https://router.huggingface.co',
    secret_prefixes: ['hf_'],
    endpoints: [
      { methods: ['POST'], paths: ['/v1/chat/completions', '/v1/responses', '/hf-inference/models/*'] },
      OPENAI_MODELS,
    ],
    strip_headers: ['x-hf-bill-to'],
    placeholder: `hf_${FAKE}`,
    // The official clients read no base URL from the environment: give them {client_base_url}/v1 in code.
    client_env: { HF_TOKEN: '{placeholder}' },
  },

  deepseek: {
    ...COMMON,
    title: 'DeepSeek API',
    source: 'https://api-docs.deepseek.com/',
    base_url: 'https://api.deepseek.com',
    secret_prefixes: ['sk-'],
    endpoints: [
      { methods: ['POST'], paths: ['/chat/completions', '/v1/chat/completions', '/anthropic/v1/messages'] },
      { methods: ['POST'], paths: ['/beta/chat/completions', '/beta/completions'] },
      { methods: ['GET'], paths: ['/models', '/v1/models'] },
    ],
    placeholder: `sk-${FAKE}`,
    client_env: { DEEPSEEK_API_BASE: '{client_base_url}', DEEPSEEK_API_KEY: '{placeholder}' },
  },

  xai: {
    ...COMMON,
    title: 'xAI API',
    source: 'https://docs.x.ai/developers/rest-api-reference/inference',
    base_url: 'https://api.x.ai',
    secret_prefixes: ['xai-'],
    endpoints: [
      { methods: ['POST'], paths: ['/v1/chat/completions', '/v1/responses', '/v1/tokenize-text'] },
      OPENAI_MODELS,
      { methods: ['GET'], paths: ['/v1/language-models', '/v1/language-models/*'] },
    ],
    placeholder: `xai-${FAKE}`,
    // xAI's own Python client speaks gRPC, which is not proxied.
    client_env: { XAI_API_BASE: '{client_base_url}/v1', XAI_API_KEY: '{placeholder}' },
  },

  cohere: {
    ...COMMON,
    title: 'Cohere API',
    source: 'https://docs.cohere.com/reference/about',
    base_url: 'https://api.cohere.com',
    secret_prefixes: [],
    endpoints: [
      { methods: ['POST'], paths: ['/v2/chat', '/v2/embed', '/v2/rerank'] },
      { methods: ['POST'], paths: ['/v1/chat', '/v1/embed', '/v1/rerank', '/v1/tokenize', '/v1/detokenize'] },
      {
        methods: ['POST'],
        paths: ['/compatibility/v1/chat/completions', '/compatibility/v1/embeddings'],
      },
      OPENAI_MODELS,
    ],
    placeholder: FAKE,
    client_env: { CO_API_URL: '{client_base_url}', CO_API_KEY: '{placeholder}' },
  },

  together: {
    ...COMMON,
    title: 'Together AI API',
    source: 'https://docs.together.ai/docs/openai-api-compatibility',
    base_url: 'https://api.together.ai',
    secret_prefixes: ['tgp_v1_'],
    endpoints: [
      {
        methods: ['POST'],
        paths: ['/v1/chat/completions', '/v1/completions', '/v1/embeddings', '/v1/rerank'],
      },
      { methods: ['GET'], paths: ['/v1/models'] },
    ],
    placeholder: `tgp_v1_${FAKE}`,
    client_env: { TOGETHER_BASE_URL: '{client_base_url}/v1', TOGETHER_API_KEY: '{placeholder}' },
  },

  fireworks: {
    ...COMMON,
    title: 'Fireworks AI inference API',
    source: 'https://docs.fireworks.ai/tools-sdks/anthropic-compatibility',
    base_url: 'https://api.fireworks.ai/inference',
    secret_prefixes: ['fw_'],
    endpoints: [
      {
        methods: ['POST'],
        paths: ['/v1/chat/completions', '/v1/completions', '/v1/responses', '/v1/messages', '/v1/embeddings'],
      },
      { methods: ['GET'], paths: ['/v1/models'] },
    ],
    placeholder: `fw_${FAKE}`,
    client_env: { FIREWORKS_BASE_URL: '{client_base_url}', FIREWORKS_API_KEY: '{placeholder}' },
  },

  cerebras: {
    ...COMMON,
    title: 'Cerebras Inference API',
    source: 'https://inference-docs.cerebras.ai/api-reference/chat-completions',
    base_url: 'https://api.cerebras.ai',
    secret_prefixes: ['csk-'],
    endpoints: [
      { methods: ['POST'], paths: ['/v1/chat/completions', '/v1/completions'] },
      // The official client sends a warm-up when it is constructed.
      { methods: ['GET'], paths: ['/v1/models', '/v1/models/*', '/v1/tcp_warming'] },
    ],
    placeholder: `csk-${FAKE}`,
    client_env: { CEREBRAS_BASE_URL: '{client_base_url}', CEREBRAS_API_KEY: '{placeholder}' },
  },
};
