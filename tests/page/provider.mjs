// A real OpenID provider, with its own pages for login and consent. Arguments: its port, the URL of its client, the client's secret.

import { Provider } from "oidc-provider";

const [port, client, secret] = process.argv.slice(2);
const page = `${client}/personal-api-tokens`;
const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [
    {
      client_id: "latchkey",
      client_secret: secret,
      redirect_uris: [`${page}/callback`],
      post_logout_redirect_uris: [`${page}/signed-out`],
    },
  ],
  cookies: { keys: ["a key of this test"] },
  pkce: { required: () => true },
  features: { devInteractions: { enabled: true }, rpInitiatedLogout: { enabled: true } },
});
provider.listen(Number(port), "127.0.0.1", () => console.log("listens"));
