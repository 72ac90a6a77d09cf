// Uses the endpoints of OAuth with oauth4webapi. Arguments: the issuer, a caller's name and secret, and a good token.

import assert from "node:assert/strict";
import * as oauth from "oauth4webapi";

const [issuer, name, secret, token] = process.argv.slice(2);
const options = { [oauth.allowInsecureRequests]: true };
const url = new URL(issuer);
const found = await oauth.discoveryRequest(url, { algorithm: "oauth2", ...options });
const server = await oauth.processDiscoveryResponse(url, found);
const client = { client_id: name };

async function introspect(token, secret) {
  const authentication = oauth.ClientSecretBasic(secret);
  const answer = await oauth.introspectionRequest(server, client, authentication, token, options);
  return oauth.processIntrospectionResponse(server, client, answer);
}

const known = await introspect(token, secret);
assert.equal(known.active, true);
assert.equal(known.iss, issuer);
console.log("active for", known.sub);
assert.deepEqual(await introspect("nonsense", secret), { active: false });

const refusal = await introspect(token, "wrong").catch((error) => error);
console.log("a stranger gets", refusal.status ?? refusal.cause?.status ?? refusal.response?.status);

for (const _ of [1, 2]) {
  const answer = await oauth.revocationRequest(server, client, oauth.None(), token, options);
  await oauth.processRevocationResponse(answer);
}
assert.deepEqual(await introspect(token, secret), { active: false });
console.log("revoked");
