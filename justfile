# The commands of a developer's day. `just` is optional: CONTRIBUTING.md has the plain commands.

# List the commands.
default:
    @just --list

# Serve from ./data; arguments are settings: just run --grpc-addr 127.0.0.1:6000
run *settings:
    cargo run -- serve {{ settings }}

# Run the tests, or those whose names contain a word: just test of_64_creations
test *names:
    scripts/test {{ names }}

# Check format, protos, dependencies and clippy.
lint:
    scripts/lint

# Measure what a validation costs; one row: just bench --bench table -- hot
bench *arguments:
    cargo bench {{ arguments }}

# Format the code.
fmt:
    cargo fmt --all

# Regenerate docs/configuration.md and latchkey.example.toml from the settings.
settings:
    UPDATE=1 scripts/test configuration

# Run everything that is checked before a change is merged.
ci:
    .ci/run
