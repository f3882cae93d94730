#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR MIT
# textfiles.sh SOCKETS DIRECTORY: asks each device whose control socket is SOCKETS/NAME.control, and writes its counters to
# DIRECTORY/vhost-user-blk-crypto-NAME.prom for node_exporter's textfile collector, with the label disk="NAME".
set -eu
sockets=$1 prefix=$2/vhost-user-blk-crypto
for control in "$sockets"/*.control; do
	[ -S "$control" ] || continue
	name=$(basename "$control" .control)
	if vhost-user-blk-crypto ctl --control "$control" stats --format prometheus > "$prefix.new"; then
		# Samples with labels have a brace; the others get one.
		sed -i -e '/^#/b' -e 's/{/{disk="'"$name"'",/;t' -e 's/ /{disk="'"$name"'"} /' "$prefix.new"
		mv "$prefix.new" "$prefix-$name.prom"
	else
		rm -f "$prefix.new" "$prefix-$name.prom"
	fi
done
# The last numbers of a device that has ended must not stay.
for file in "$prefix"-*.prom; do
	name=${file#"$prefix-"}
	[ -S "$sockets/${name%.prom}.control" ] || rm -f "$file"
done
