#!/usr/bin/env bash
# Installs ffmpeg (Debian's package), by which asrkit reads m4a, mp4, webm, aac, wma and amr.
set -euo pipefail
if command -v ffmpeg >/dev/null; then
  exit 0
fi
"$(dirname "${BASH_SOURCE[0]}")/install_package.sh" --no-install-recommends ffmpeg
