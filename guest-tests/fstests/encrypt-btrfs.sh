# SPDX-License-Identifier: Apache-2.0 OR MIT
# shellcheck shell=bash
# `cargo xtask fstests --fs btrfs` in the guest: what xfstests has to know to test encryption on btrfs, which it does not know.
# run.sh appends this to common/encrypt of xfstests, so these functions take the place of those there.
#
# btrfs takes v2 policies only, as every extent has a key. Most of the tests are older: they have v1 policies, whose keys are in a
# keyring of the session. Here these tests get v2 policies and keys of the file system. What differs, and what is done about it:
# - A key of a session is there in the next mount, too: it is added again.
# - A v2 key that is removed locks the files that are not open. The tests unlink a key before they mount again, or have files
#   open that are to stay usable.

# Keys of the "session": a file for each, with its bytes in the notation of xfstests; its name is what the test calls it.
session_keys=/tmp/session-keys
rm -rf $session_keys
mkdir $session_keys

_scratch_mkfs_encrypted()
{
	_scratch_mkfs
}

_scratch_mkfs_sized_encrypted()
{
	_scratch_mkfs_sized "$@"
}

# add_session_key RAW: prints the identifier.
add_session_key()
{
	_add_enckey "$SCRATCH_MNT" "$1" | awk '{ print $NF }'
}

_add_session_encryption_key()
{
	echo "$2" > "$session_keys/$1"
	add_session_key "$2" > "$session_keys/$1.identifier"
}

_generate_session_encryption_key()
{
	local name
	name=$(_generate_key_descriptor)
	_add_session_encryption_key "$name" "$(_generate_raw_encryption_key)"
	echo "$name"
}

_unlink_session_encryption_key()
{
	_rm_enckey "$SCRATCH_MNT" "$(< "$session_keys/$1.identifier")" >> "$seqres.full"
	rm "$session_keys/$1" "$session_keys/$1.identifier"
}

_revoke_session_encryption_key()
{
	_unlink_session_encryption_key "$1"
}

eval "xfstests$(declare -f _scratch_cycle_mount)"
_scratch_cycle_mount()
{
	local key
	xfstests_scratch_cycle_mount "$@"
	for key in "$session_keys"/*.identifier; do
		[ ! -e "$key" ] || add_session_key "$(< "${key%.identifier}")" >> "$seqres.full"
	done
}

# DIRECTORY [KEY] [OPTION...]
_set_encpolicy()
{
	local directory=$1 key=
	shift
	case ${1:-} in
	'' | -*) ;;
	*)
		key=$1
		shift
		if [ -e "$session_keys/$key.identifier" ]; then
			key=$(< "$session_keys/$key.identifier")
		elif [ ${#key} != 32 ]; then
			_notrun "btrfs takes no v1 policies"
		fi
		;;
	esac
	# The last one counts, so the test's own version comes later.
	$XFS_IO_PROG -c "set_encpolicy -v 2 $* $key" "$directory"
}

# Readers open a file while its key is revoked, and one of them must succeed. After a v2 key is removed none need.
[ "$seq" != 421 ] || _notrun "a v2 key cannot be revoked"
