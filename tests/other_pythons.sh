#!/usr/bin/env bash
# Runs the tests with Python 3.13, and so with the newest jax and flax of constraints.txt, in a
# Debian 13 root of its own.
#
#   tests/other_pythons.sh                  the default suite (an hour on 2 cores)
#   tests/other_pythons.sh -n 2 tests/ops   any arguments of pytest
#   tests/other_pythons.sh --no-namespaces tests/rewards/test_sandbox.py
#                                           in a plain chroot, where the kernel refuses user
#                                           namespaces, as many containers do
#
# It makes the root from Debian's packages (mmdebstrap, half a minute), copies the working tree
# into it (tracked and new files as they are, nothing that git ignores), installs '.[test]' there
# with constraints.txt into a virtual environment (2 minutes), runs pytest and prints the versions
# and pytest's figures. It takes 3 GB of disk. The root, its mounts and its processes are gone
# afterwards, also after Ctrl-C.
#
# Exit code: pytest's; 69 when it cannot run here or the root cannot be made: one line says why.
#
# Needs: Linux, root with the right to mount (a plain `docker run` has none), mmdebstrap, git, and
# the keys of Debian's archive (debian-archive-keyring).
#
# From the environment: TMPDIR says where the root is made. What apt and pip are told on this
# machine holds in the root as well: apt's Acquire settings, pip's configuration files and variables
# with the files and folders that they name, proxies, and the certificates. DEBIAN_MIRROR replaces
# mmdebstrap's own mirror. RLHF_JAX_SHARED, or ../shared, is the real data for the tests that read
# it.
set -euo pipefail
tree=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
release=trixie

cannot() {
  echo "other_pythons.sh cannot run here: $1"
  exit 69 # EX_UNAVAILABLE of sysexits.h
}

check() {
  [ "$(uname -s)" = Linux ] || cannot "a Debian root needs Linux, this is $(uname -s)"
  [ "$(id -u)" = 0 ] || cannot "it mounts and changes the root, so it must be started by root"
  local program
  for program in mmdebstrap git unshare chroot pivot_root tar; do
    command -v "$program" >/dev/null || cannot "$program is not installed"
  done
  [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] ||
    cannot "the keys of Debian's archive are missing (debian-archive-keyring)"
  git -C "$tree" rev-parse --git-dir >/dev/null 2>&1 || cannot "$tree is not a git checkout"
  unshare --mount --pid --fork true 2>/dev/null || cannot "this root may not make mount namespaces"
}

# The existing files and folders that standard input names by absolute path. The pages of an index
# (file:///wheels/simple) link to files beside its folder, so that its parent counts.
named_paths() {
  { grep -oE "(^|[^/[:alnum:]])(file://)?/[^/ '\"=,:][^ '\"=,:]*" || true; } |
    sed -E 's|^[^/f]||; s|^file://(/.+)/[^/]+/?$|\1|; s|^file://||' | sort -u |
    while read -r path; do [ ! -e "$path" ] || echo "$path"; done
}

bind() { # FROM [TO]: shows FROM in the root, read-only
  local from=$1 to=$root${2:-$1}
  if [ -d "$from" ]; then
    mkdir -p "$to"
  else
    mkdir -p "$(dirname "$to")" && rm -f "$to" && touch "$to"
  fi
  mount --bind "$from" "$to" && mount -o remount,bind,ro "$to"
}

# Installs and tests. In a mount and a process namespace of its own: nothing of it outlives it.
inside() {
  local root=$1 namespaces=$2 file
  shift 2
  mount --make-rprivate /
  mount --bind "$root" "$root" # a place where something is mounted, as the root of a system is
  mount -t proc proc "$root/proc"
  mount --rbind /sys "$root/sys"
  mount --rbind /dev "$root/dev"
  bind "$(readlink -f /etc/resolv.conf)" /etc/resolv.conf
  bind /etc/hosts
  local certificates=/etc/ssl/certs/ca-certificates.crt
  [ ! -e "$certificates" ] || bind "$(readlink -f "$certificates")" "$certificates"
  local settings=(/etc/pip.conf /etc/xdg/pip "$HOME/.config/pip" "$HOME/.pip")
  for file in "${settings[@]}"; do
    [ ! -e "$file" ] || bind "$file" "${file/#"$HOME"//root}"
  done
  {
    cat /etc/pip.conf /etc/xdg/pip/* "$HOME"/.config/pip/* "$HOME"/.pip/* 2>/dev/null || true
    env | grep -E '^(PIP_|SSL_|REQUESTS_|CURL_)' || true
  } | named_paths >"$root/tmp/named"
  while read -r file; do
    [ -e "$root$file" ] || bind "$file"
  done <"$root/tmp/named"
  local shared=${RLHF_JAX_SHARED:-$tree/../shared}
  [ ! -d "$shared" ] || bind "$(readlink -f "$shared")" /src/shared
  unset PYTHONPATH VIRTUAL_ENV RLHF_JAX_SHARED TMPDIR
  cd "$root"
  # chroot alone leaves a process that may not make user namespaces.
  [ "$namespaces" = no ] || { pivot_root . . && umount --lazy .; }
  HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
    exec chroot . /bin/bash -euo pipefail -c '
      cd /src/tree
      python3 -m venv /venv
      started=$SECONDS
      /venv/bin/pip install -qq -c constraints.txt ".[test]"
      echo "installed in $((SECONDS - started)) s"
      rm -rf build *.egg-info # of the install: the tests see the tree as it was copied
      /venv/bin/python --version
      /venv/bin/pip list --format freeze | grep -E "^(jax|jaxlib|flax|numpy)=="
      status=0 # not exec: the first process of a namespace has to reap the others
      /venv/bin/python -m pytest "$@" || status=$?
      exit "$status"' bash "$@"
}

running=
work=
finish() {
  # The namespace's first process takes all others with it.
  [ -z "$running" ] || { kill -KILL "$running" && wait "$running"; } 2>/dev/null || true
  [ -z "$work" ] || rm -rf --one-file-system "$work"
}

main() {
  check
  local namespaces=yes status=0
  if [ "${1:-}" = --no-namespaces ]; then
    namespaces=no
    shift
  fi
  trap finish EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  work=$(mktemp -d)
  chmod 755 "$work"
  local root=$work/root
  apt-config dump 2>/dev/null | grep '^Acquire::' >"$work/apt.conf" || true
  echo "making a Debian $release root"
  mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,ca-certificates,git \
    --aptopt="$work/apt.conf" "$release" "$root" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} ||
    cannot "mmdebstrap could not make a Debian $release root"
  mkdir -p "$root/src/tree"
  git -C "$tree" ls-files -z --cached --others --exclude-standard |
    while IFS= read -r -d '' file; do [ ! -e "$tree/$file" ] || printf '%s\0' "$file"; done |
    tar -C "$tree" --null --no-recursion --files-from=- --create |
    tar -C "$root/src/tree" --extract --no-same-owner
  # A repository of its own: a worktree's .git points outside.
  git -C "$root/src/tree" init --quiet && git -C "$root/src/tree" add --all
  # In the background, so that a signal is answered at once and not when the tests have ended.
  unshare --mount --pid --fork --kill-child "${BASH_SOURCE[0]}" --inside \
    "$root" "$namespaces" "$@" &
  running=$!
  wait "$running" || status=$?
  running=
  exit "$status"
}

if [ "${1:-}" = --inside ]; then
  shift
  inside "$@"
fi
main "$@"
