#!/usr/bin/env bash
# Tells Ray that AWS is about to take this spot machine back, so that no other trial is put on it: Ray itself does not listen
# for the announcement. Runs beside Ray, until that or the machine ends.
set -u
service="${METADATA_SERVICE:-http://169.254.169.254}/latest"
every="${WATCH_EVERY:-5}" # seconds: AWS announces two minutes ahead and asks for a look every five seconds

while sleep "$every"; do
  session=$(curl -sf -m 2 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$service/api/token") || continue
  # Found only when the machine is to be stopped or taken.
  curl -sf -m 2 -o /dev/null -H "X-aws-ec2-metadata-token: $session" "$service/meta-data/spot/instance-action" || continue
  # No deadline: with one, Ray takes an earlier end for an accident.
  ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION --reason-message "spot machine taken back" && exit 0
done
