#!/usr/bin/env bash
# Installs NIST sclite (Debian's package sctk), the reference that asrkit's scoring is compared with.
set -euo pipefail
if command -v sclite >/dev/null || command -v sctk >/dev/null; then
  exit 0
fi
"$(dirname "${BASH_SOURCE[0]}")/install_package.sh" sctk
