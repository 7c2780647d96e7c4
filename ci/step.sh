# Sourced by the scripts beside it: `step NAME SECONDS COMMAND..` runs a command within a time budget and says how long it took.
step() {
  local name=$1 budget=$2 began=$SECONDS status=0
  shift 2
  printf '\n==> %s (at most %s s)\n' "$name" "$budget"
  timeout --kill-after=10 "$budget" "$@" || status=$?
  if [ "$status" -ne 0 ]; then
    printf '==> %s FAILED with status %s after %s s\n' "$name" "$status" "$((SECONDS - began))"
    return "$status"
  fi
  printf '==> %s: %s s\n' "$name" "$((SECONDS - began))"
}
