# The image contains one static program, CA certificates and a folder for data: no shell, no packages.
#
#   docker build --build-arg REVISION="$(git rev-parse HEAD)" -t latchkey:0.1.0 .
#   docker run -v latchkey:/data -p 127.0.0.1:50051:50051 \
#       -e LATCHKEY_GRPC_ADDR=0.0.0.0:50051 -e LATCHKEY_INSECURE=1 latchkey:0.1.0
#
# Callers are not authenticated yet, so the service listens on loopback unless the two variables are set. The image
# does not set them: decide this where you know who can connect.

# A release also pins the digest of this tag (FROM rust:1.95.0-slim-bookworm@sha256:…), which
# `docker buildx imagetools inspect rust:1.95.0-slim-bookworm` prints.
FROM rust:1.95.0-slim-bookworm AS build
ARG TARGETARCH
ARG REVISION=unknown
WORKDIR /source
COPY . .
# --target keeps the flags away from macros and build scripts, which cannot be static, even though the target is the
# host. A static glibc resolves hosts only by /etc/hosts and DNS, which is all that a container has. The second flag
# makes getrandom use the system call: it would look for glibc's function at run time, not find it in a static
# program, and read /dev/random. The tests are built with the same flags (scripts/tools).
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/source/target,id=latchkey-target-${TARGETARCH} \
    host="$(rustc --print host-tuple)" \
    && RUSTFLAGS='-C target-feature=+crt-static --cfg getrandom_backend="linux_getrandom"' LATCHKEY_REVISION="${REVISION}" \
        cargo build --release --locked --bin latchkey --target "${host}" \
    && mkdir -p /image/etc/ssl/certs /data \
    && cp "target/${host}/release/latchkey" LICENSE /image/ \
    && cp /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/

FROM scratch
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Latchkey" \
      org.opencontainers.image.description="Personal API tokens as a gRPC service" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /image /
# Numeric, so that Kubernetes can verify that it is not root.
COPY --from=build --chown=65532:65532 /data /data
USER 65532:65532
# For the embedded database and its key ring, unless another database is set.
ENV LATCHKEY_DATA_DIR=/data
VOLUME /data
EXPOSE 50051 8080 9090
# Used by Docker; Kubernetes has its own probes.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["/latchkey", "health"]
ENTRYPOINT ["/latchkey"]
