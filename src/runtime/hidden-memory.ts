/**
 * Keeps the memory of this process, which holds the secrets, from others of the same user: not dumpable means no
 * core dump, no ptrace, and no /proc/PID/{mem,environ,fd} for anyone but root (prctl(2), PR_SET_DUMPABLE; what
 * OpenSSH does in platform_disable_tracing). What this process itself reads of /proc/self stays readable but for environ.
 */
import process from 'node:process';

const PR_GET_DUMPABLE = 3;
const PR_SET_DUMPABLE = 4;

/** The C library by its name under glibc and under musl. */
const LIBRARIES = ['libc.so.6', 'libc.so'];

/** An execve makes a process dumpable again, so this comes after the clean start. False where it cannot be done. */
export async function hideMemory(): Promise<boolean> {
  if (process.platform !== 'linux') return false;
  try {
    const { dlopen, FFIType } = await import('bun:ffi');
    const prctl = {
      args: [FFIType.int, FFIType.u64, FFIType.u64, FFIType.u64, FFIType.u64],
      returns: FFIType.int,
    } as const;
    for (const library of LIBRARIES) {
      try {
        const { symbols } = dlopen(library, { prctl });
        symbols.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
        return symbols.prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) === 0;
      } catch {
        // The other library, then.
      }
    }
  } catch {
    // A runtime without it.
  }
  return false;
}
