// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A vhost-user-blk device with inline encryption, as a UFS or eMMC host controller has it.
//!
//! The stages of a request, module by module:
//!
//! | stage | module | knows | must not know |
//! |---|---|---|---|
//! | frontend | [`vhost`] | sockets, messages, memory regions, eventfds | request types, keys |
//! | virtqueue | [`queue`] | heads, used lengths, notification | block semantics |
//! | parse and validate | [`request`] | wire layout, capacity, limits | files, keys, slot contents |
//! | keyslot | [`keyslot`] | index to key, generation, users in flight | guest memory, virtio, disk |
//! | encryption | [`scattered_xts`], a crate of its own | key, DUN, data unit size, bytes | sectors, descriptors, slots |
//! | digests | [`digest`] | ciphertext | keys, guest memory |
//! | wrapped keys | [`wrapped`] | wrapping keys, blobs, the hardware's KDF | slots, virtio, disk |
//! | disk | [`disk`] | offsets, bytes, flush | keys, DUNs, virtio |
//! | control socket | [`control`] | JSON, clients | how a device works |
//! | statistics | [`observe`] | numbers of requests | data, keys, guest memory |
//! | least privilege | [`sandbox`] | system calls, paths | everything else |
//! | execute | [`engine`] | a request from its key to the disk, in one function | virtqueues, statuses |
//! | virtio | [`device`] | features, configuration space; error to status | how requests are executed |
//! | UFS | [`ufs`] | registers, UPIUs, SCSI; error to OCS or sense | how requests are executed, messages |
//! | PCI device | [`vfio_user`] | messages, guest memory, the interrupt line | what registers mean |
//!
//! [`tasks`] holds the requests in flight, [`reactor`] is the worker's interface to the engine, [`segments`] the data
//! of a request in guest memory. [`faults`] decides which requests fail, and how. [`protocol`] has every number of the
//! wire format, [`personality`] the values of real engines. `ARCHITECTURE.md` has the picture.

pub mod control;
pub mod descriptors;
pub mod device;
pub mod digest;
pub mod disk;
pub mod engine;
pub mod eventfd;
pub mod faults;
pub mod keyslot;
mod lock;
pub mod observe;
pub mod own_path;
pub mod personality;
mod probe;
pub mod protocol;
pub mod queue;
pub mod ratelimit;
pub mod reactor;
mod regions;
pub mod request;
pub mod sandbox;
pub mod secret;
pub mod segments;
pub mod sigbus;
pub mod tasks;
pub mod threads;
pub mod ufs;
pub mod vfio_user;
pub mod vhost;
pub mod wrapped;
