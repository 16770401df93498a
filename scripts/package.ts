/**
 * `make deb`, `make rpm`: a package from the built binary and what `make install` puts beside it. The same source
 * gives the same bytes ($SOURCE_DATE_EPOCH, else the time of the last commit).
 *
 * ISOPROXY_BIN names another binary than dist/isoproxy, ARCH (amd64, arm64) its machine where it is not this one.
 * Exit 0 also where the tool is missing ("skipped: …"). The binary is never stripped: that removes the program.
 */
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  cpSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import process from 'node:process';
import { gzipSync } from 'node:zlib';
import { VERSION } from '../src/version.ts';
import { sourceDate } from './source-date.ts';

const BINARY = process.env['ISOPROXY_BIN'] ?? 'dist/isoproxy';
const ARCH = process.env['ARCH'] ?? (process.arch === 'arm64' ? 'arm64' : 'amd64');
const RPM_ARCH = ARCH === 'arm64' ? 'aarch64' : 'x86_64';
const RELEASE = 1;
const SUMMARY = 'safe pass-through proxy: sandboxed agents use an API without holding its key';
const DESCRIPTION = `isoproxy runs on the host of a sandbox. It listens on a unix socket, checks
each request against an allow-list, injects the credential that the sandbox
never sees, and forwards over HTTPS to the one configured upstream.`;
/** Who makes the package: $MAINTAINER, as "Name <address>". */
const MAINTAINER = process.env['MAINTAINER'] ?? 'The isoproxy authors <isoproxy@example.invalid>';
/** What the binary is linked against (readelf -V). */
const GLIBC = '2.17';
const CONFIG = 'etc/isoproxy/proxy.toml';
const LINTIAN_OVERRIDES = `# Stripping removes the program, which lies in the executable as data.
isoproxy: unstripped-binary-or-object [usr/bin/isoproxy]
# The runtime is linked by its makers.
isoproxy: embedded-library * [usr/bin/isoproxy]
isoproxy: hardening-no-pie [usr/bin/isoproxy]
isoproxy: hardening-no-relro [usr/bin/isoproxy]
`;

const script = (name: string): string => readFileSync(join('packaging', name), 'utf8');

function run(command: string, args: readonly string[], env: Record<string, string> = {}): void {
  const child = spawnSync(command, args, { encoding: 'utf8', env: { ...process.env, ...env } });
  if (child.status !== 0)
    throw new Error(
      `${command} ${args.join(' ')} failed:\n${child.error ?? `${child.stdout}${child.stderr}`}`,
    );
}

function write(path: string, content: string | Uint8Array, mode = 0o644): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, content);
  chmodSync(path, mode);
}

/** What both packages hold, as it lies on the disk of their users. */
function stage(root: string, zshDirectory: string): void {
  run('make', [
    '--silent',
    'install-files',
    `DESTDIR=${root}`,
    'PREFIX=/usr',
    `ZSHDIR=${zshDirectory}`,
    `BIN=${BINARY}`,
  ]);
  const page = join(root, 'usr/share/man/man1/isoproxy.1');
  write(`${page}.gz`, gzipSync(readFileSync(page), { level: 9 }));
  rmSync(page);
  write(join(root, CONFIG), script('proxy.toml'));
  // The links of the README lead to these.
  cpSync('docs', join(root, 'usr/share/doc/isoproxy/docs'), { recursive: true });
  for (const path of walk(root)) {
    const isProgram = path === join(root, 'usr/bin/isoproxy');
    if (!lstatSync(path).isSymbolicLink())
      chmodSync(path, statSync(path).isDirectory() || isProgram ? 0o755 : 0o644);
  }
}

function walk(root: string): string[] {
  return [root, ...readdirSync(root, { recursive: true, encoding: 'utf8' }).map((name) => join(root, name))];
}

/** Debian's form of the licence: title, copyright line, then the paragraphs. */
function copyright(license: string): string {
  const [, holder = '', ...paragraphs] = license.trimEnd().split('\n\n');
  const text = paragraphs.join('\n\n').split('\n');
  return `Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: isoproxy

Files: *
Copyright: ${holder.replace('Copyright (c) ', '')}
License: MIT
${text.map((line) => ` ${line === '' ? '.' : line}`).join('\n')}
`;
}

function buildDeb(work: string, out: string): string {
  const root = join(work, 'root');
  stage(root, '/usr/share/zsh/vendor-completions');
  const doc = join(root, 'usr/share/doc/isoproxy');
  write(join(doc, 'copyright'), copyright(readFileSync('LICENSE', 'utf8')));
  rmSync(join(doc, 'LICENSE'));
  write(join(doc, 'changelog.gz'), gzipSync(readFileSync('CHANGELOG.md'), { level: 9 }));
  const date = new Date(sourceDate() * 1000).toUTCString().replace('GMT', '+0000');
  const entry = `isoproxy (${VERSION}-${RELEASE}) unstable; urgency=medium\n\n  * See changelog.gz.\n\n -- ${MAINTAINER}  ${date}\n`;
  write(join(doc, 'changelog.Debian.gz'), gzipSync(entry, { level: 9 }));
  write(join(root, 'usr/share/lintian/overrides/isoproxy'), LINTIAN_OVERRIDES);
  rmSync(join(doc, 'CHANGELOG.md'));
  const size = walk(root).reduce((sum, path) => sum + Math.ceil(lstatSync(path).size / 1024), 0);
  const control = join(root, 'DEBIAN');
  write(
    join(control, 'control'),
    `Package: isoproxy
Version: ${VERSION}-${RELEASE}
Architecture: ${ARCH}
Maintainer: ${MAINTAINER}
Installed-Size: ${size}
Depends: libc6 (>= ${GLIBC})
Suggests: bubblewrap
Section: net
Priority: optional
Description: ${SUMMARY}
${DESCRIPTION.split('\n')
  .map((line) => ` ${line}`)
  .join('\n')}
`,
  );
  write(join(control, 'conffiles'), `/${CONFIG}\n`);
  const shell = '#!/bin/sh\nset -e\n';
  write(join(control, 'postinst'), `${shell}[ "$1" = configure ] || exit 0\n${script('postinst.sh')}`, 0o755);
  write(join(control, 'prerm'), `${shell}[ "$1" = remove ] || exit 0\n${script('prerm.sh')}`, 0o755);
  write(
    join(control, 'postrm'),
    `${shell}${script('postrm.sh')}if [ "$1" = purge ]; then
  rm -rf /var/lib/isoproxy /run/isoproxy
  # Keys that lie there are not ours to delete.
  rmdir /etc/isoproxy 2>/dev/null || true
fi
`,
    0o755,
  );
  const file = join(out, `isoproxy_${VERSION}-${RELEASE}_${ARCH}.deb`);
  run('dpkg-deb', ['--root-owner-group', '-Zxz', '-z3', '--build', root, file], {
    SOURCE_DATE_EPOCH: String(sourceDate()),
  });
  return file;
}

function buildRpm(work: string, out: string): string {
  const root = join(work, 'root');
  stage(root, '/usr/share/zsh/site-functions');
  const spec = join(work, 'isoproxy.spec');
  const files = walk(root)
    .filter((path) => !statSync(path).isDirectory())
    .map((path) => path.slice(root.length))
    .sort();
  const mark = (path: string) => {
    if (path === `/${CONFIG}`) return '%config(noreplace) ';
    return path.startsWith('/usr/share/doc/') ? '%doc ' : '';
  };
  write(
    spec,
    `Name: isoproxy
Version: ${VERSION}
Release: ${RELEASE}
Summary: ${SUMMARY}
License: MIT
Requires: glibc >= ${GLIBC}
AutoReqProv: no
# The program lies behind the end of the ELF file: nothing may strip, compress or rewrite it.
%global debug_package %{nil}
%global __os_install_post %{nil}
%global _build_id_links none
%global _buildhost localhost
%global use_source_date_epoch_as_buildtime 1
%global clamp_mtime_to_source_date_epoch 1
%global source_date_epoch_from_changelog 0
%global _binary_payload w3.xzdio

%description
${DESCRIPTION}

%install
mkdir -p %{buildroot}
cp -a ${root}/. %{buildroot}

%post
${script('postinst.sh')}
%preun
[ "$1" = 0 ] || exit 0
${script('prerm.sh')}
%postun
${script('postrm.sh')}
%files
%defattr(-,root,root,-)
%dir /etc/isoproxy
%dir /usr/share/doc/isoproxy
%dir /usr/share/doc/isoproxy/docs
${files.map((path) => `${mark(path)}${path}`).join('\n')}
`,
  );
  run(
    'rpmbuild',
    [
      '-bb',
      '--quiet',
      `--target=${RPM_ARCH}-linux`,
      ...['--define', `_topdir ${work}/rpm`, '--define', `_rpmdir ${work}/rpms`],
      spec,
    ],
    { SOURCE_DATE_EPOCH: String(sourceDate()), HOME: work },
  );
  const name = `isoproxy-${VERSION}-${RELEASE}.${RPM_ARCH}.rpm`;
  const file = join(out, name);
  cpSync(join(work, 'rpms', RPM_ARCH, name), file);
  return file;
}

const KINDS: Readonly<Record<string, { tool: string; build: (work: string, out: string) => string }>> = {
  deb: { tool: 'dpkg-deb', build: buildDeb },
  rpm: { tool: 'rpmbuild', build: buildRpm },
};

/** Builds a package into `out`; a text is the reason why it cannot be built here. */
export function buildPackage(kind: string, out: string): { file: string } | string {
  const entry = KINDS[kind];
  if (entry === undefined) throw new Error('usage: scripts/package.ts deb|rpm');
  if (spawnSync(entry.tool, ['--version']).status !== 0) return `${entry.tool} is not installed`;
  const work = mkdtempSync(join(tmpdir(), 'isoproxy-package-'));
  try {
    mkdirSync(out, { recursive: true });
    return { file: entry.build(work, resolve(out)) };
  } finally {
    rmSync(work, { recursive: true });
  }
}

if (import.meta.main) {
  const built = buildPackage(process.argv[2] ?? '', 'dist/packages');
  console.log(typeof built === 'string' ? `skipped: ${built}` : built.file);
}
