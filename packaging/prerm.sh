# Before the last copy goes away; not on an upgrade.
if [ -d /run/systemd/system ]; then systemctl disable --now isoproxy.service || true; fi
