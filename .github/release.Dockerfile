# The image of a release: as Dockerfile at the root makes it, around the binary that the release has built.
FROM --platform=$BUILDPLATFORM golang:1.26.8-alpine AS base
RUN mkdir -m 0700 /data

FROM scratch
ARG TARGETPLATFORM
COPY --from=base /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY $TARGETPLATFORM/aside /usr/local/bin/aside
COPY LICENSE NOTICE /licenses/
COPY LICENSES /licenses/LICENSES/
COPY --from=base --chown=65532:65532 /data /data
USER 65532:65532
WORKDIR /data
VOLUME /data
ENV ASIDE_SERVICE_BIND=0.0.0.0 \
    ASIDE_FALLBACK_DIR=/data/fallback
EXPOSE 9997 9998
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s CMD ["/usr/local/bin/aside", "healthcheck"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/aside"]
CMD ["serve"]
