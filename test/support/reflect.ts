// The four Reflect metadata functions that @peculiar/x509's dependency injection asks for, so that the tests need no
// polyfill package. Import this, then load x509 with `await import(...)`: Bun evaluates a CommonJS dependency of a
// static import before the imports written above it.

type Key = unknown;
type MetadataReflect = {
  defineMetadata(key: Key, value: unknown, target: object): void;
  getOwnMetadata(key: Key, target: object): unknown;
  getMetadata(key: Key, target: object): unknown;
  metadata(key: Key, value: unknown): (target: object) => void;
};

const store = new WeakMap<object, Map<Key, unknown>>();
const own = (target: object): Map<Key, unknown> => {
  const found = store.get(target) ?? new Map<Key, unknown>();
  store.set(target, found);
  return found;
};

const polyfill: MetadataReflect = {
  defineMetadata: (key, value, target) => void own(target).set(key, value),
  getOwnMetadata: (key, target) => own(target).get(key),
  getMetadata(key, target) {
    for (let at: object | null = target; at; at = Object.getPrototypeOf(at)) {
      if (own(at).has(key)) return own(at).get(key);
    }
    return undefined;
  },
  metadata: (key, value) => (target) => polyfill.defineMetadata(key, value, target),
};

if (!('getMetadata' in Reflect)) Object.assign(Reflect, polyfill);
