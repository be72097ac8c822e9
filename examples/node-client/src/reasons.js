/** The stable reason of a refused call, out of google.rpc.ErrorInfo in the trailing metadata (AIP-193). */
import protobuf from 'protobufjs';

const { root } = protobuf.parse(
  `
  syntax = "proto3";
  package google.rpc;
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message ErrorInfo { string reason = 1; string domain = 2; map<string, string> metadata = 3; }
`,
  { keepCase: true },
);
const Status = root.lookupType('google.rpc.Status');
const ErrorInfo = root.lookupType('google.rpc.ErrorInfo');

/** A call was refused or failed. `reason` is one of counterseal.api.common.v1.Reason, "" when the server named none. */
export class CallFailed extends Error {
  constructor(method, error) {
    const info = errorInfo(error);
    super(`${method}: ${info?.reason || error.code}: ${error.details}`);
    this.name = 'CallFailed';
    this.code = error.code;
    this.reason = info?.reason ?? '';
    this.metadata = info?.metadata ?? {};
  }
}

function errorInfo(error) {
  const [bytes] = error.metadata?.get('grpc-status-details-bin') ?? [];
  if (!Buffer.isBuffer(bytes)) return undefined;
  try {
    const details = Status.decode(bytes).details;
    const any = details.find((detail) => detail.type_url.endsWith('/google.rpc.ErrorInfo'));
    return any && ErrorInfo.decode(any.value);
  } catch {
    return undefined; // whatever a server sends, the call has failed already
  }
}
