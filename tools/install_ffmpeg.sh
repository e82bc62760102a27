#!/usr/bin/env bash
# Installs ffmpeg (Debian's package), by which asrkit reads m4a, mp4, webm, aac, wma and amr.
set -euo pipefail
if command -v ffmpeg >/dev/null; then
  exit 0
fi
sudo=""
[ "$(id -u)" = 0 ] || sudo=sudo
$sudo apt-get update -qq
$sudo apt-get install -y -qq --no-install-recommends ffmpeg
