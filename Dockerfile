# The image holds one static program, the authorities that it trusts and a folder for its data: no shell, no packages.
#
#   docker build --build-arg REVISION="$(git rev-parse HEAD)" -t latchkey:0.1.0 .
#   docker run -v latchkey:/data -p 127.0.0.1:50051:50051 \
#       -e LATCHKEY_GRPC_ADDR=0.0.0.0:50051 -e LATCHKEY_INSECURE=1 latchkey:0.1.0
#
# The two variables are needed to be reached from outside the container, since callers are not authenticated yet. The
# image does not set them: that is for whoever knows who can connect.

# A release pins the digest behind this tag as well, which `docker buildx imagetools inspect rust:1.95.0-slim-bookworm`
# prints: FROM rust:1.95.0-slim-bookworm@sha256:…
FROM rust:1.95.0-slim-bookworm AS build
ARG TARGETARCH
ARG REVISION=unknown
WORKDIR /source
COPY . .
# --target, although it is this machine's own: else the flags would reach the macros and build scripts, which cannot be
# static. glibc finds hosts by /etc/hosts and DNS alone when it is linked in, which is all there is in a container. The
# second flag: else randomness would come from /dev/random, since getrandom looks for glibc's function at run time, and
# finds none in a static program. The tests are built with the same flags (scripts/tools).
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
# A number, so that Kubernetes sees that it is not root.
COPY --from=build --chown=65532:65532 /data /data
USER 65532:65532
# The embedded database and its key ring, where no other database is set.
ENV LATCHKEY_DATA_DIR=/data
VOLUME /data
EXPOSE 50051 8080
# For Docker; Kubernetes asks by itself.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["/latchkey", "health"]
ENTRYPOINT ["/latchkey"]
