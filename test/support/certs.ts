// Certificates of the test upstreams, made at run time (ECDSA P-256) and kept for the life of the test process.

import './reflect.ts';

const x509 = await import('@peculiar/x509');

/** `good` names localhost, up.example and 127.0.0.1; the others differ from it in the one way their name says. */
export type LeafKind = 'good' | 'expired' | 'wrong-name' | 'self-signed' | 'unknown-ca';

/** A certificate and its private key, both PEM. */
export interface CertPair {
  cert: string;
  key: string;
}

export interface TestCerts {
  /** PEM of the CA that signed `good`, `expired`, `wrong-name` and `client`. */
  ca: string;
  /** PEM of the CA that signed `unknown-ca`. */
  otherCa: string;
  leaves: Record<LeafKind, CertPair>;
  /** Client certificate, subject `CN=isoproxy-client`. */
  client: CertPair;
}

type Certificate = InstanceType<typeof x509.X509Certificate>;
interface Issuer {
  certificate: Certificate;
  keys: CryptoKeyPair;
}

const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
const DAY_MS = 86_400_000;
const GOOD_NAMES = ['localhost', 'up.example'];

let cached: Promise<TestCerts> | undefined;

/** The certificates of this test process; made on the first call. */
export function testCerts(): Promise<TestCerts> {
  cached ??= makeCerts();
  return cached;
}

async function makeCerts(): Promise<TestCerts> {
  const [ca, otherCa] = await Promise.all([makeCa('isoproxy test CA'), makeCa('isoproxy other CA')]);
  const [good, expired, wrongName, selfSigned, unknownCa, client] = await Promise.all([
    makeLeaf({ issuer: ca, dns: GOOD_NAMES, ip: ['127.0.0.1'] }),
    makeLeaf({ issuer: ca, dns: GOOD_NAMES, ip: ['127.0.0.1'], from: -10 * DAY_MS, to: -DAY_MS }),
    makeLeaf({ issuer: ca, dns: ['wrong.example'], ip: [] }),
    makeLeaf({ dns: GOOD_NAMES, ip: ['127.0.0.1'] }),
    makeLeaf({ issuer: otherCa, dns: GOOD_NAMES, ip: ['127.0.0.1'] }),
    makeLeaf({ issuer: ca, dns: [], ip: [], commonName: 'isoproxy-client', client: true }),
  ]);
  return {
    ca: ca.certificate.toString('pem'),
    otherCa: otherCa.certificate.toString('pem'),
    leaves: { good, expired, 'wrong-name': wrongName, 'self-signed': selfSigned, 'unknown-ca': unknownCa },
    client,
  };
}

const makeKeys = () =>
  crypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']) as Promise<CryptoKeyPair>;
const serialNumber = () => `01${crypto.randomUUID().replaceAll('-', '').slice(0, 16)}`;

async function makeCa(commonName: string): Promise<Issuer> {
  const keys = await makeKeys();
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: serialNumber(),
    name: `CN=${commonName}`,
    notBefore: new Date(Date.now() - 30 * DAY_MS),
    notAfter: new Date(Date.now() + 30 * DAY_MS),
    signingAlgorithm: ALGORITHM,
    keys,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  return { certificate, keys };
}

interface LeafOptions {
  issuer?: Issuer;
  dns: string[];
  ip: string[];
  commonName?: string;
  client?: boolean;
  from?: number;
  to?: number;
}

async function makeLeaf(options: LeafOptions): Promise<CertPair> {
  const keys = await makeKeys();
  const subject = `CN=${options.commonName ?? options.dns[0] ?? 'leaf'}`;
  const names = [
    ...options.dns.map((value) => ({ type: 'dns' as const, value })),
    ...options.ip.map((value) => ({ type: 'ip' as const, value })),
  ];
  const { serverAuth, clientAuth } = x509.ExtendedKeyUsage;
  const { digitalSignature, keyCertSign } = x509.KeyUsageFlags;
  // A self-signed certificate counts as one only when its key may sign certificates.
  const selfSigned = options.issuer === undefined;
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber: serialNumber(),
    subject,
    issuer: options.issuer?.certificate.subject ?? subject,
    notBefore: new Date(Date.now() + (options.from ?? -DAY_MS)),
    notAfter: new Date(Date.now() + (options.to ?? 20 * DAY_MS)),
    signingAlgorithm: ALGORITHM,
    publicKey: keys.publicKey,
    signingKey: (options.issuer?.keys ?? keys).privateKey,
    extensions: [
      new x509.BasicConstraintsExtension(selfSigned, undefined, true),
      new x509.KeyUsagesExtension(digitalSignature | (selfSigned ? keyCertSign : 0), true),
      new x509.ExtendedKeyUsageExtension([options.client ? clientAuth : serverAuth]),
      ...(names.length > 0 ? [new x509.SubjectAlternativeNameExtension(names)] : []),
    ],
  });
  const key = await crypto.subtle.exportKey('pkcs8', keys.privateKey);
  return { cert: certificate.toString('pem'), key: x509.PemConverter.encode(key, 'PRIVATE KEY') };
}
