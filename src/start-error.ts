/** A start that failed for a reason that the operator can mend. */
export class StartError extends Error {
  readonly kind: 'config' | 'unavailable' | 'audit';
  readonly hint: string | undefined;

  constructor(kind: 'config' | 'unavailable' | 'audit', message: string, hint?: string) {
    super(message);
    this.kind = kind;
    this.hint = hint;
  }
}
