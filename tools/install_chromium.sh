#!/usr/bin/env bash
# Installs Debian's chromium, which tests use to open the report page.
set -euo pipefail
if command -v chromium >/dev/null || command -v google-chrome >/dev/null; then
  exit 0
fi
"$(dirname "${BASH_SOURCE[0]}")/install_package.sh" --no-install-recommends chromium
