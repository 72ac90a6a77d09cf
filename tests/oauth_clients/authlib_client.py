"""Uses the endpoints of OAuth with authlib. Arguments: the issuer, a caller's name and secret, and a good token."""

import sys

import requests
from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2.rfc8414 import AuthorizationServerMetadata

issuer, name, secret, token = sys.argv[1:]
answer = requests.get(issuer + "/.well-known/oauth-authorization-server", timeout=10)
answer.raise_for_status()
metadata = AuthorizationServerMetadata(answer.json())
assert metadata["issuer"] == issuer
metadata.validate_response_types_supported()
metadata.validate_introspection_endpoint_auth_methods_supported()
metadata.validate_revocation_endpoint_auth_methods_supported()

client = OAuth2Session(name, secret, token_endpoint_auth_method="client_secret_basic")


def introspect(token):
    answer = client.introspect_token(metadata["introspection_endpoint"], token=token)
    answer.raise_for_status()
    return answer.json()


known = introspect(token)
assert known["active"] is True and known["iss"] == issuer, known
print("active for", known["sub"])
assert introspect("nonsense") == {"active": False}

stranger = OAuth2Session(name, "wrong", token_endpoint_auth_method="client_secret_basic")
answer = stranger.introspect_token(metadata["introspection_endpoint"], token=token)
print("a stranger gets", answer.status_code)

for _ in range(2):
    client.revoke_token(metadata["revocation_endpoint"], token=token).raise_for_status()
assert introspect(token) == {"active": False}
print("revoked")
