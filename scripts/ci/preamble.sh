# Shared by the scripts of this folder, which source it: enter the checkout, stop at the first failure, define two functions.
set -eu
cd "$(dirname "$0")/../.."
cache=${XDG_CACHE_HOME:-$HOME/.cache}/anthropic-proxy
locked="install -q --disable-pip-version-check --require-hashes"

# environment NAME: an environment in the user's cache with the packages of locks/NAME.lock; sets $python.
environment() {
    python=$cache/$1/bin/python
    [ -x "$python" ] || ${PYTHON:-python3} -m venv "$cache/$1"
    "$python" -m pip $locked -r "locks/$1.lock"
}

# packages NAME: the packages of locks/NAME.lock in a folder of the user's cache, wheels only; adds it to PYTHONPATH.
packages() {
    folder=$cache/$1-$(cksum <"locks/$1.lock" | tr ' ' -)
    [ -d "$folder" ] || {
        .venv/bin/python -m pip $locked --only-binary :all: --target "$folder.new" -r "locks/$1.lock" || return 1
        mv "$folder.new" "$folder"
    }
    export PYTHONPATH="$folder"
}
