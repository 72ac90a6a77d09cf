// Creates, lists, validates and deletes a token, and shows how to read errors.
//
//   npm install
//   npx tsx tokens.ts localhost:50051

import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import * as grpc from "@grpc/grpc-js";
import * as loader from "@grpc/proto-loader";
import protobuf from "protobufjs";
import { getProtoPath } from "google-proto-files";

const DEADLINE = 5_000; // milliseconds

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    user: { type: "string", default: "alice" },
    // CA certificates of the service (PEM). Without it, no TLS.
    ca: { type: "string" },
    // A file with the secret or JWT of this caller.
    "credential-file": { type: "string" },
  },
});

const protos = new URL("../../../proto", import.meta.url).pathname;
const definition = loader.loadSync("latchkey/v1/token_service.proto", {
  includeDirs: [protos],
  enums: String,
  defaults: true,
  oneofs: true,
});
const { latchkey } = grpc.loadPackageDefinition(definition) as any;
const tokens = new latchkey.v1.TokenService(
  positionals[0] ?? "localhost:50051",
  options.ca ? grpc.credentials.createSsl(readFileSync(options.ca)) : grpc.credentials.createInsecure(),
);

function call(method: string, request: object): Promise<any> {
  const metadata = new grpc.Metadata();
  if (options["credential-file"]) {
    metadata.set("authorization", `Bearer ${readFileSync(options["credential-file"], "utf8").trim()}`);
  }
  const deadline = { deadline: Date.now() + DEADLINE };
  return new Promise((resolve, reject) => {
    tokens[method](request, metadata, deadline, (error: grpc.ServiceError | null, answer: any) =>
      error ? reject(error) : resolve(answer),
    );
  });
}

// google.rpc.Status is in a trailer, and its details are messages of several types.
const rpc = protobuf.loadSync([getProtoPath("rpc/status.proto"), getProtoPath("rpc/error_details.proto")]);
const Status = rpc.lookupType("google.rpc.Status");

// Prints what a program can decide by: the code, and the details of google.rpc.
function show(error: grpc.ServiceError) {
  console.log("error", grpc.status[error.code]);
  const [trailer] = error.metadata.get("grpc-status-details-bin");
  const details = trailer ? (Status.decode(trailer as Buffer) as any).details : [];
  for (const { type_url, value } of details) {
    const type = rpc.lookupType(type_url.split("/").pop());
    const detail = type.decode(value) as any;
    for (const violation of detail.fieldViolations ?? []) {
      console.log("  field", violation.field, "-", violation.description);
    }
    if (type.name === "ErrorInfo") {
      console.log("  reason", detail.reason, "of", detail.domain);
    }
  }
}

// With a request_id the call can be repeated if its answer is lost: it makes no second token.
const userId = options.user;
const created = await call("createToken", { userId, name: "example", scopes: ["read"], requestId: randomUUID() });
// The secret is never shown again. A real program stores it safely, and does not print it.
console.log("created", created.token.hint);

let pageToken = "";
do {
  const page = await call("listTokens", { userId, pageToken });
  for (const token of page.tokens) {
    console.log("listed", token.name, token.hint);
  }
  pageToken = page.nextPageToken;
} while (pageToken);

const validation = { secret: created.secret, requiredScopes: ["read"] };
let answer = await call("validateToken", validation);
console.log("valid for", answer.valid.userId);

const deletion = { userId, tokenId: created.token.id };
await call("deleteToken", deletion);
answer = await call("validateToken", validation);
console.log("invalid:", answer.invalid.reason);

await call("createToken", { userId, name: "ab" }).catch(show);
await call("deleteToken", deletion).catch(show);
tokens.close();
