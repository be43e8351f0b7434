/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The structs that viscum.bpf.c and the Python side (kernel/director/abi.py) share.
 * Explicit padding, sizes asserted here; tests/abi compares Python's with this object's BTF.
 * Addresses are 16 bytes in network order, IPv4 as ::ffff:a.b.c.d. Ports are in network order.
 * Times are CLOCK_BOOTTIME nanoseconds. */
#ifndef VISCUM_H
#define VISCUM_H
#include <linux/types.h>

#define V_ABI 4
#define V_MAX_GENERATIONS 4
#define V_MAX_INSTANCES 8
#define V_MAX_INTERFACES 8
#define V_MARK 0x56530000u

/* v_service.flags */
#define V_ENABLED      (1u << 0)  /* takes new flows (inverted once until_ns has passed) */
#define V_DROP         (1u << 1)  /* when-down = "drop" */
#define V_QUIC         (1u << 2)  /* only a QUIC Initial opens a UDP flow */
#define V_PING         (1u << 3)  /* ping = "edge" */
#define V_SHARE_FLOW   (1u << 4)  /* share-by = "flow" */
#define V_HONOUR       (1u << 5)  /* firewall = "honour": mark and pass instead of redirect */
#define V_CLIENTS      (1u << 6)  /* only clients found in the map `clients` */
/* v_generation.flags */
#define V_ACCEPTING    (1u << 0)  /* takes new flows; clear while draining */

struct v_addr { __u32 a[4]; };

struct v_instance { __u32 ifindex; __s32 nsid; __u32 slot; __u32 pad; };

struct v_generation {
	__u32 number, flags, n, pad;
	struct v_instance inst[V_MAX_INSTANCES];
};

/* map `services`: HASH, key __u32 sid, never 0 (replaced whole, so a reader never sees half an update) */
struct v_service {
	__u32 sid, flags;
	__u64 share;         /* a new flow is the edge's if hash32 < share; 1<<32 = all */
	__u64 until_ns;      /* 0, or when V_ENABLED turns into its opposite (`--for`) */
	__u64 arm_until_ns;  /* until then unknown UDP flows are recorded as the cloud's */
	__u64 udp_idle_ns;
	__u32 udp_epoch;     /* edge flows of an older epoch are the cloud's (`--now`) */
	__u32 seed;          /* of the hash that fixes share and instance */
	__u32 n_generations;
	__u32 n_interfaces;  /* of them the first n_admitting take new flows; on the others only those */
	__u32 n_admitting;   /* go on that began before the interface was given up */
	__u32 pad;
	__u32 interfaces[V_MAX_INTERFACES];         /* ifindex of each client interface */
	struct v_generation gen[V_MAX_GENERATIONS]; /* newest first */
};

/* map `targets`: HASH v_addr -> __u32 group; map `prefixes`: LPM_TRIE v_prefix -> __u32 group.
 * A group is one distinct set of services that claim an address; 0: nobody (an IPv6 prefix such as
 * ::/0 would else cover the mapped IPv4 addresses). */
struct v_prefix { __u32 len; struct v_addr addr; };

/* map `ports`: HASH -> __u32 sid. Asked in this order: {group, port, proto}, {group, 0, proto}
 * (every port), {group, 0, 0} (every protocol). An ICMP error is asked for with the protocol and
 * the service's port of the packet it quotes; an echo request with {group, 0, 1}, also for IPv6,
 * which the lowest service of the group owns (before it one with ping = "edge"). Other protocols
 * are looked up only so that they can be counted. */
struct v_port { __u32 group; __u16 port; __u8 proto; __u8 pad; };

/* map `clients`: LPM_TRIE -> __u32 1; len counts the 32 bits of sid */
struct v_client { __u32 len; __u32 sid; struct v_addr addr; };

/* map `holds`: HASH __u32 sid -> the most that a controller lets new flows have (as share), because
 * of the box's load, of the service's health and of its tenant's quota. Written without the host's lock: nothing else is in
 * it, and no entry means that nobody holds the service. */
struct v_hold { __u64 load, health, quota; };

/* map `links`: HASH __u32 ifindex of a service's host-side link -> what the returner needs.
 * sid: whose the link is; own4, own6: the instance's own addresses, all zero if it has none. */
struct v_link { __u32 slot, sid; struct v_addr own4, own6; };

/* map `flows`: LRU_HASH, UDP, as the client sends. When it is full the flow that was silent
 * longest is forgotten; its next datagram is then judged like the first of a new flow.
 * sid: whose it was when it began. A flow of the edge whose slot is no longer among those of the
 * service that the packet belongs to is the cloud's from then on. */
struct v_flow_key { struct v_addr src, dst; __u16 sport, dport; __u32 pad; };
struct v_flow { __u64 last_ns; __u32 sid, slot, edge, epoch; };

/* map `syns`: LRU_HASH v_flow_key -> the last SYN and where it went, so that its retransmission
 * goes there too; map `away`: LRU_HASH v_flow_key -> __u64 time of a SYN that went to the cloud
 * while the edge held the same ports in TIME_WAIT. No established flow depends on `syns`.
 * Of a SYN that went to the edge it also holds how far the handshake is, so that each step is timed
 * once: ns is when the SYN came, then when its SYN-ACK left. What is forgotten because the map is
 * full is not timed. */
enum v_went {
	V_WENT_CLOUD,
	V_WENT_EDGE,       /* its SYN-ACK is awaited */
	V_WENT_ANSWERED,   /* the SYN-ACK has left, once; the client's ACK is awaited */
	V_WENT_TIMED,      /* nothing (more) to time: done, or something was sent twice */
};
struct v_syn { __u64 ns; __u32 seq; __u32 went; };

/* map `replies`: LRU_HASH -> v_addr, the target a UDP client wrote to, for servers that are bound
 * to the wildcard address and answer from another one */
struct v_reply_key { struct v_addr client; __u16 cport, sport; __u32 slot; };

/* map `frags`: LRU_HASH, written by a datagram's first fragment, both ways. proto is 0 in IPv6.
 * put: what the later fragments of a reply get as their source; all zero: leave it. */
struct v_frag_key { struct v_addr src, dst; __u32 id, proto; };
struct v_frag { __u64 ns; __u32 sid, slot, ifindex, generation; struct v_addr put; };

/* map `counters`: PERCPU_HASH __u32 sid -> this; the reasons are enum v_reason */
enum v_reason {
	V_MISS,            /* no target, or no service for the port: not ours */
	V_IFACE,           /* the service does not serve this interface */
	V_CLIENT,          /* the client is not in `clients` */
	V_EDGE_ESTABLISHED, V_EDGE_REQUEST, V_EDGE_TIME_WAIT, V_EDGE_COOKIE, V_EDGE_SYN,
	V_CLOUD_NO_SOCKET,   /* not a SYN, and no socket of the service knows it: the cloud's flow */
	V_CLOUD_NO_LISTENER, V_CLOUD_DISABLED, V_CLOUD_SHARE, V_CLOUD_HELD, V_CLOUD_SYN_AGAIN, V_CLOUD_AWAY,
	V_CLOUD_HUNG, V_CLOUD_JOIN,
	V_EDGE_UDP_NEW, V_EDGE_UDP, V_EDGE_UDP_CONNECTED,
	V_CLOUD_UDP, V_CLOUD_UDP_ARMING, V_CLOUD_UDP_NO_SOCKET, V_CLOUD_UDP_NOT_INITIAL,
	V_CLOUD_UDP_FULL,    /* the flow could not be recorded */
	V_EDGE_ICMP, V_CLOUD_ICMP, V_EDGE_PING, V_CLOUD_PING,
	V_EDGE_FRAGMENT, V_CLOUD_FRAGMENT,
	V_CLOUD_DEAD,        /* namespace or link gone, or the link is down */
	V_CLOUD_OTHER,       /* other protocol, or not parseable */
	V_DROP_DOWN,         /* when-down = "drop" and nobody listens */
	V_RETURN, V_RETURN_STACK, V_RETURN_SOURCE /* target put back as source */,
	V_OWN_IN, V_OWN_OUT,  /* of the server's own flows: what is not a client's */
	V_NOT_HOST,          /* the frame is not addressed to this host, or tagged: never looked at */
	V_REASONS
};
#define V_BUCKETS 24
/* bucket[n]: how many took less than 2^n microseconds, and not less than 2^(n-1); the last one also
 * holds what took longer */
struct v_histogram { __u64 sum_us; __u64 bucket[V_BUCKETS]; };
/* Bytes with the Ethernet header: of clients' flows, and of V_OWN_IN and V_OWN_OUT.
 * connect: from the first SYN that went to the edge to the first SYN-ACK that came back;
 * rtt: from a SYN-ACK to the client's ACK, the round trip between here and the client */
struct v_counters {
	__u64 in_bytes, out_bytes, own_in_bytes, own_out_bytes;
	__u64 packets[V_REASONS];
	struct v_histogram connect, rtt;
};

/* map `config`: ARRAY of one. build: begin of the SHA-256 of the object that was loaded */
struct v_config { __u32 abi, n_prefixes; __u64 build; };

/* explain: PROG_TEST_RUN with this in cb[0..2]; the answer comes back in cb[0..4] =
 * {V_DRY_RUN_DONE, reason, sid, slot, generation} and nothing is redirected, written or counted. */
#define V_DRY_RUN0 0x76697363u
#define V_DRY_RUN1 0x756d2d64u
#define V_DRY_RUN2 0x72792d72u
#define V_DRY_RUN_DONE 0x756e2121u

_Static_assert(sizeof(struct v_instance) == 16, "v_instance");
_Static_assert(sizeof(struct v_generation) == 16 + 16 * V_MAX_INSTANCES, "v_generation");
_Static_assert(sizeof(struct v_service) == 64 + 4 * V_MAX_INTERFACES + V_MAX_GENERATIONS * sizeof(struct v_generation), "v_service");
_Static_assert(sizeof(struct v_prefix) == 20, "v_prefix");
_Static_assert(sizeof(struct v_port) == 8, "v_port");
_Static_assert(sizeof(struct v_client) == 24, "v_client");
_Static_assert(sizeof(struct v_link) == 40, "v_link");
_Static_assert(sizeof(struct v_hold) == 24, "v_hold");
_Static_assert(sizeof(struct v_flow_key) == 40, "v_flow_key");
_Static_assert(sizeof(struct v_flow) == 24, "v_flow");
_Static_assert(sizeof(struct v_syn) == 16, "v_syn");
_Static_assert(sizeof(struct v_reply_key) == 24, "v_reply_key");
_Static_assert(sizeof(struct v_frag_key) == 40, "v_frag_key");
_Static_assert(sizeof(struct v_frag) == 40, "v_frag");
_Static_assert(sizeof(struct v_histogram) == 8 + 8 * V_BUCKETS, "v_histogram");
_Static_assert(sizeof(struct v_counters) == 32 + 8 * V_REASONS + 2 * sizeof(struct v_histogram), "v_counters");
#endif
