# SPDX-License-Identifier: Apache-2.0 OR MIT
# shellcheck shell=sh
#
# For scripts that execute the host's commands from the port "dialog", one at a time (xtask/src/compare/dialog.rs is the other
# end). Sourced after fslib.sh.
#
# A command is a line with a function's name and its arguments. The answer is the line `reply STATUS BYTES` and BYTES bytes of
# output. While a load runs, `mark begin TICKS` and `mark end TICKS` come before it, with the CPU time that the guest has used;
# the guest waits for a line after each, so that the host can read the device's counters in between.

# words: prints the lines that fscrypt has logged so far.
words() {
	dmesg | sed -n 's/^.*\(fscrypt: \)/\1/p'
}

# kernel_errors: prints the errors that the kernel has logged so far.
kernel_errors() {
	dmesg -t -l emerg,alert,crit,err
}

# answer_the_host: executes its commands until `end`. The program /tmp/mark reports that a load begins or ends.
answer_the_host() {
	local line status errors
	cat > /tmp/mark <<- 'END'
		#!/bin/sh
		read -r _ user nice system _ _ irq softirq steal _ < /proc/stat
		echo "mark $1 $((user + nice + system + irq + softirq + steal))" >&3
		read -r _ <&3
	END
	chmod +x /tmp/mark
	cd /tmp
	exec 3<> "$(find_port dialog)"
	echo ready >&3
	while read -r line <&3; do
		note "$line"
		[ "$line" != end ] || break
		errors=$(kernel_errors | wc -l)
		set +e
		# The line is split at spaces on purpose: no argument has one.
		# shellcheck disable=SC2086
		(set -e; $line) > /tmp/reply 2> /tmp/error
		status=$?
		set -e
		if [ $status != 0 ]; then
			cat /tmp/error >> /tmp/reply
			# The first error is the reason; what follows are its consequences.
			kernel_errors | sed -n "$((errors + 1))s/^/the guest's kernel: /p" >> /tmp/reply
			cat /tmp/reply
		fi
		echo "reply $status $(wc -c < /tmp/reply)" >&3
		cat /tmp/reply >&3
	done
	cat /tmp/error 2> /dev/null || true
}
