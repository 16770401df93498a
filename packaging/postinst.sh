# The user and the directories, where systemd is there to make them. Nothing is enabled or started.
if command -v systemd-sysusers >/dev/null 2>&1; then systemd-sysusers isoproxy.conf || true; fi
if command -v systemd-tmpfiles >/dev/null 2>&1; then systemd-tmpfiles --create isoproxy.conf || true; fi
if [ -d /run/systemd/system ]; then systemctl daemon-reload || true; fi
