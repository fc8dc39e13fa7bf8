# The proxy and its tools: docs/PROXY.md, Containers.
#
#   docker build -t aside .
#   docker run -p 127.0.0.1:9997:9997 -p 127.0.0.1:9998:9998 -v aside:/data -e ASIDE_SERVICE_INSECURE=true aside

FROM --platform=$BUILDPLATFORM golang:1.26.8-alpine AS build
WORKDIR /src
# Modules first: they change less often than the code.
COPY go.mod go.sum ./
COPY asideprom/go.mod asideprom/go.sum asideprom/
COPY cmd/aside/go.mod cmd/aside/go.sum cmd/aside/
RUN GOWORK=off go -C cmd/aside mod download
COPY . .
ARG TARGETOS TARGETARCH VERSION=""
# GOWORK=off: the other modules of the workspace (examples, integration) are not needed here.
RUN GOWORK=off CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -C cmd/aside -trimpath -buildvcs=false -ldflags "-s -w -X main.stamped=$VERSION" -o /out/aside .
# An empty folder to copy: an image without a shell cannot make one, and a new volume takes over its owner and mode.
RUN mkdir -m 0700 /out/data

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/aside /usr/local/bin/aside
COPY LICENSE NOTICE /licenses/
COPY LICENSES /licenses/LICENSES/
COPY --from=build --chown=65532:65532 /out/data /data
USER 65532:65532
WORKDIR /data
VOLUME /data
# Port mappings do not reach loopback. aside refuses this without a token and a password, or ASIDE_SERVICE_INSECURE=true.
ENV ASIDE_SERVICE_BIND=0.0.0.0 \
    ASIDE_FALLBACK_DIR=/data/fallback
EXPOSE 9997 9998
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s CMD ["/usr/local/bin/aside", "healthcheck"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/aside"]
CMD ["serve"]
