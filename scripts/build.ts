/** Builds dist/isoproxy for this machine. */
import { compile } from './compile.ts';

compile('dist/isoproxy', undefined);
