# shellcheck shell=bash
# Checks what bin/demo and bin/test need, and installs it if possible. Sourced, not run.

MIN_ELIXIR=1.14
MIN_PYTHON=3.11
MIN_RUST=1.91

# Debian has no UTF-8 locale by default; file names and the tables need one.
export LC_ALL=C.UTF-8
# fnu: file names are UTF-8. Bd: Ctrl-C ends the VM at once, and with it every worker.
export ELIXIR_ERL_OPTIONS="${ELIXIR_ERL_OPTIONS:-} +fnu +Bd"
say() { printf '%s\n' "$*" >&2; }

die() {
  say "$@"
  exit 1
}

# at_least 1.14.0 1.14: whether the first version is the second or later.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# Starting Erlang to ask it takes longer than a look at where Debian puts it.
has_erlang_headers() {
  [ -e /usr/lib/erlang/usr/include/erl_nif.h ] && return
  command -v erl >/dev/null &&
    [ -e "$(erl -noshell -eval 'io:put_chars(code:root_dir()), halt().')/usr/include/erl_nif.h" ]
}

has_proper() {
  compgen -G '/usr/lib/erlang/lib/proper-*' >/dev/null && return
  command -v erl >/dev/null &&
    erl -noshell -eval 'case code:lib_dir(proper) of {error, _} -> halt(1); _ -> halt(0) end.'
}

python_can() { command -v python3 >/dev/null && python3 -c "$1" >/dev/null 2>&1; }

# install_missing demo|tests: the Debian packages that are not there.
install_missing() {
  local missing=() install
  command -v elixir >/dev/null && command -v mix >/dev/null || missing+=(elixir)
  has_erlang_headers || missing+=(erlang-dev)
  if [ "$1" = tests ]; then
    has_proper || missing+=(erlang-proper)
    command -v valgrind >/dev/null || missing+=(valgrind)
    command -v chromium >/dev/null || missing+=(chromium)
  fi
  command -v cc >/dev/null || missing+=(gcc libc6-dev)
  command -v python3 >/dev/null || missing+=(python3)
  # uv makes environments by itself.
  command -v uv >/dev/null || python_can 'import venv, ensurepip' || missing+=(python3-venv)

  [ ${#missing[@]} -eq 0 ] && return
  # Another run of apt may be at work; it is waited for.
  install=(apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${missing[@]}")

  if ! command -v apt-get >/dev/null; then
    die "Needed and not found: ${missing[*]} (the names of the Debian packages). Install them and run this again."
  elif [ "$(id -u)" -ne 0 ]; then
    say "Some Debian packages are missing. Run this, then try again:"
    die $'\n'"  sudo ${install[*]}"
  fi

  say "Installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  # The lists of packages may be there already, and new enough.
  if ! "${install[@]}" >/dev/null 2>&1; then
    apt-get update || die "apt-get update failed."
    "${install[@]}" || die "These packages could not be installed: ${missing[*]}"
  fi
}

check_versions() {
  local found
  found=$(elixir_version)
  at_least "$found" "$MIN_ELIXIR" || die "Elixir $MIN_ELIXIR or later is needed; this is Elixir $found."

  python_can "import sys; sys.exit(sys.version_info < (${MIN_PYTHON/./, }))" ||
    compgen -c python3.1 | grep -Eqx 'python3\.1[1-9]' ||
    die "Python $MIN_PYTHON or later is needed; this is $(python3 --version 2>&1)."

  # rustup installs there, which need not be in the path of this shell, or stand behind Debian's.
  if ! good_cargo && [ -x "${HOME:-/}/.cargo/bin/cargo" ]; then PATH="$HOME/.cargo/bin:$PATH"; fi
  good_cargo && return

  found=$(cargo_version || true)
  say "Rust $MIN_RUST or later is needed; ${found:+cargo }${found:-no working cargo} was found."
  die "Install it from https://rustup.rs, or run: rustup update stable"
}

cargo_version() { cargo --version 2>/dev/null | cut -d ' ' -f 2; }
good_cargo() { at_least "$(cargo_version || true)" "$MIN_RUST"; }

# Without starting a VM, which takes as long as everything else here together.
elixir_version() {
  local app
  app=$(dirname "$(dirname "$(readlink -f "$(command -v elixir)")")")/lib/elixir/ebin/elixir.app
  if [ -r "$app" ]; then
    sed -n 's/.*{vsn,"\([0-9.]*\).*/\1/p' "$app" | head -n 1
  else
    elixir --short-version
  fi
}

# setup demo|tests
setup() {
  install_missing "$@"
  check_versions
}
