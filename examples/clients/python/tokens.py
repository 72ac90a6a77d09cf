"""Creates, lists, validates and deletes a token, and shows how to read errors.

    pip install -r requirements.txt
    mkdir -p gen
    python -m grpc_tools.protoc -I ../../../proto --python_out=gen --grpc_python_out=gen latchkey/v1/token_service.proto
    python tokens.py localhost:50051
"""

import argparse
import pathlib
import sys
import uuid

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

sys.path.insert(0, str(pathlib.Path(__file__).parent / "gen"))
from latchkey.v1 import token_service_pb2 as pb  # noqa: E402
from latchkey.v1.token_service_pb2_grpc import TokenServiceStub  # noqa: E402

DEADLINE = 5  # seconds


def main():
    arguments = parse_arguments()
    tokens = TokenServiceStub(connect(arguments))
    metadata = credential(arguments)

    # With a request_id the call can be repeated if its answer is lost: it makes no second token.
    request = pb.CreateTokenRequest(
        user_id=arguments.user, name="example", scopes=["read"], request_id=str(uuid.uuid4())
    )
    created = tokens.CreateToken(request, timeout=DEADLINE, metadata=metadata)
    # The secret is never shown again. A real program stores it safely, and does not print it.
    print("created", created.token.hint)

    page_token = ""
    while True:
        request = pb.ListTokensRequest(user_id=arguments.user, page_token=page_token)
        page = tokens.ListTokens(request, timeout=DEADLINE, metadata=metadata)
        for token in page.tokens:
            print("listed", token.name, token.hint)
        page_token = page.next_page_token
        if not page_token:
            break

    validation = pb.ValidateTokenRequest(secret=created.secret, required_scopes=["read"])
    answer = tokens.ValidateToken(validation, timeout=DEADLINE, metadata=metadata)
    print("valid for", answer.valid.user_id)

    deletion = pb.DeleteTokenRequest(user_id=arguments.user, token_id=created.token.id)
    tokens.DeleteToken(deletion, timeout=DEADLINE, metadata=metadata)
    answer = tokens.ValidateToken(validation, timeout=DEADLINE, metadata=metadata)
    print("invalid:", pb.Invalid.Reason.Name(answer.invalid.reason))

    try:
        tokens.CreateToken(
            pb.CreateTokenRequest(user_id=arguments.user, name="ab"), timeout=DEADLINE, metadata=metadata
        )
    except grpc.RpcError as error:
        show(error)
    try:
        tokens.DeleteToken(deletion, timeout=DEADLINE, metadata=metadata)
    except grpc.RpcError as error:
        show(error)


def show(error):
    """Prints what a program can decide by: the code, and the details of google.rpc."""
    print("error", error.code().name)
    status = rpc_status.from_call(error)
    for detail in status.details if status else []:
        fields = error_details_pb2.BadRequest()
        if detail.Unpack(fields):
            for violation in fields.field_violations:
                print("  field", violation.field, "-", violation.description)
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            print("  reason", info.reason, "of", info.domain)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("address", nargs="?", default="localhost:50051")
    parser.add_argument("--user", default="alice")
    parser.add_argument("--ca", type=pathlib.Path, help="CA certificates of the service (PEM); without it, no TLS")
    parser.add_argument("--credential-file", type=pathlib.Path, help="the secret or JWT of this caller")
    return parser.parse_args()


def connect(arguments):
    if arguments.ca:
        return grpc.secure_channel(arguments.address, grpc.ssl_channel_credentials(arguments.ca.read_bytes()))
    return grpc.insecure_channel(arguments.address)


def credential(arguments):
    if not arguments.credential_file:
        return []
    return [("authorization", "Bearer " + arguments.credential_file.read_text().strip())]


if __name__ == "__main__":
    main()
