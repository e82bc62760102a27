#!/usr/bin/env bash
# Installs Debian packages; arguments go to apt-get install.
set -euo pipefail
sudo=""
[ "$(id -u)" = 0 ] || sudo=sudo
$sudo apt-get update -qq
$sudo apt-get install -y -qq "$@"
