# The image for everyone who has a container engine; `cargo xtask image` writes the same one without.
#
#   docker build -t tile-proxy .
#   docker run -p 8080:8080 -v "$PWD/tile-proxy.yaml:/etc/tile-proxy/config.yaml:ro" \
#     tile-proxy serve --config /etc/tile-proxy/config.yaml
#
# with a tile-proxy.yaml such as examples/tile-proxy.yaml; or without one, everything said by variables as
# in examples/standalone/compose.yaml.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# Static: the image below has no C library.
ENV RUSTFLAGS="-C target-feature=+crt-static"
RUN target="$(rustc -vV | sed -n 's/^host: //p')" \
 && cargo build --release --locked --target "$target" -p tile-proxy -p tile-proxy-operator \
 && mkdir -p /out/cache \
 && cp "target/$target/release/tile-proxy" "target/$target/release/tile-proxy-operator" /out/

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/tile-proxy /out/tile-proxy-operator /usr/local/bin/
COPY --from=build --chown=65532:65532 /out/cache /var/cache/stellaops/tiles
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/usr/local/bin/tile-proxy"]
CMD ["serve"]
