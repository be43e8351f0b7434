// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* The data path: viscum_in (the director, ingress of client interfaces), viscum_out (the returner,
 * ingress of the host's end of each service link) and viscum_own (its egress, which only counts).
 *
 * There is no flow table for TCP: the 4-tuple is looked up in the service's own namespace, and
 * the server's sockets say whose flow it is. Whatever is not certainly the edge's is left as it
 * came (TC_ACT_UNSPEC, which TCX calls TCX_NEXT), so that what breaks here ends at the cloud.
 *
 * Functions that are not static are verified once, by their arguments' types, instead of once
 * for every state their callers may be in: that keeps the load time down. Up to Linux 6.3 or so
 * such an argument can't be a map's key or value (bpf_map_lookup_elem: "R2 type=mem"): they are
 * copied to the function's own stack. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <stddef.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "viscum.h"

#define PASS TC_ACT_UNSPEC
#define AF_INET 2
#define AF_INET6 10
#define MAPPED bpf_htonl(0xffff)        /* third word of ::ffff:a.b.c.d */

#define SEC_NS 1000000000ull
#define SYN_NS (75 * SEC_NS)            /* longer than the longest pause between two of a SYN */
#define SYN_TWICE_NS (SEC_NS / 10)      /* sooner than any retransmission: the network's copy */
#define FRAG_NS (30 * SEC_NS)           /* net.ipv4.ipfrag_time */
#define QUIC_MIN 1200                   /* least payload with an Initial, RFC 9000 14.1 */
#define QUIC_V2 bpf_htonl(0x6b3343cf)   /* RFC 9369 */
#define MP_JOIN 0x10                    /* high half byte: subtype, RFC 8684 3.2 */

#define HASH_MAP(NAME, TYPE, KEY, VALUE, N, FLAGS) struct { \
	__uint(type, TYPE); __uint(max_entries, N); __uint(map_flags, FLAGS); \
	__type(key, KEY); __type(value, VALUE); } NAME SEC(".maps")

HASH_MAP(config, BPF_MAP_TYPE_ARRAY, __u32, struct v_config, 1, 0);
HASH_MAP(services, BPF_MAP_TYPE_HASH, __u32, struct v_service, 4096, BPF_F_NO_PREALLOC);
HASH_MAP(targets, BPF_MAP_TYPE_HASH, struct v_addr, __u32, 131072, BPF_F_NO_PREALLOC);
HASH_MAP(prefixes, BPF_MAP_TYPE_LPM_TRIE, struct v_prefix, __u32, 16384, BPF_F_NO_PREALLOC);
HASH_MAP(ports, BPF_MAP_TYPE_HASH, struct v_port, __u32, 131072, BPF_F_NO_PREALLOC);
HASH_MAP(clients, BPF_MAP_TYPE_LPM_TRIE, struct v_client, __u32, 16384, BPF_F_NO_PREALLOC);
HASH_MAP(holds, BPF_MAP_TYPE_HASH, __u32, struct v_hold, 4096, BPF_F_NO_PREALLOC);
HASH_MAP(links, BPF_MAP_TYPE_HASH, __u32, struct v_link, 4096, BPF_F_NO_PREALLOC);
HASH_MAP(counters, BPF_MAP_TYPE_PERCPU_HASH, __u32, struct v_counters, 4096, BPF_F_NO_PREALLOC);
/* what the packets write; user space sets the sizes from the machine's memory when it loads */
HASH_MAP(flows, BPF_MAP_TYPE_LRU_HASH, struct v_flow_key, struct v_flow, 4096, 0);
HASH_MAP(replies, BPF_MAP_TYPE_LRU_HASH, struct v_reply_key, struct v_addr, 4096, 0);
HASH_MAP(syns, BPF_MAP_TYPE_LRU_HASH, struct v_flow_key, struct v_syn, 4096, 0);
HASH_MAP(away, BPF_MAP_TYPE_LRU_HASH, struct v_flow_key, __u64, 4096, 0);
HASH_MAP(frags, BPF_MAP_TYPE_LRU_HASH, struct v_frag_key, struct v_frag, 4096, 0);

struct icmp { __u8 type, code; __be16 sum; __u32 rest; };  /* linux/icmp.h drags in libc */

enum { WHOLE, FIRST, LATER };               /* struct pkt.frag */
enum { PLAIN, ECHO_REQUEST, ECHO_REPLY, ERROR };  /* struct pkt.kind */

/* What is known of the packet. In an ICMP error k, proto and th are those of the quoted packet. */
struct pkt {
	struct v_flow_key k;   /* src: the client, dst: the target, whatever way the packet goes */
	struct tcphdr th;
	__u32 l4, id;          /* offset from the network header; fragment id */
	__u32 udp_len;
	__u32 sid, ifindex, slot, generation;
	__s32 nsid;
	__u8 v6, proto, frag, kind, dry, tos, pad[2];
};

#define EACH_GENERATION(I, S) \
	_Pragma("clang loop unroll(disable)") \
	for (int I = 0; I < V_MAX_GENERATIONS && I < (S)->n_generations; I++)
#define LD(OFF, TO, N) bpf_skb_load_bytes_relative(skb, OFF, TO, N, BPF_HDR_START_NET)

static __always_inline int same(const struct v_addr *x, const struct v_addr *y)
{
	return x->a[0] == y->a[0] && x->a[1] == y->a[1] && x->a[2] == y->a[2] && x->a[3] == y->a[3];
}

static __always_inline void mapped(struct v_addr *to, __be32 v4)
{
	to->a[0] = to->a[1] = 0; to->a[2] = MAPPED; to->a[3] = v4;
}

static __always_inline __u32 mix(__u32 h, __u32 w)
{
	h = (h ^ w) * 0x9e3779b1u;
	return h ^ h >> 15;
}

/* ---- parsing -------------------------------------------------------------------------------- */

/* IPv6 from the header `nh` at `off`, over extension headers, to the transport header */
__noinline int v_walk6(struct __sk_buff *skb, struct pkt *p, __u32 off, __u32 nh)
{
	struct { __u8 nh, len; __be16 fo; __be32 id; } e;

	if (!p)
		return -1;
	for (int i = 0; i < 8; i++) {
		if (nh != IPPROTO_HOPOPTS && nh != IPPROTO_ROUTING && nh != IPPROTO_DSTOPTS &&
		    nh != IPPROTO_AH && nh != IPPROTO_FRAGMENT)
			break;
		if (LD(off, &e, 8) < 0)
			return -1;
		if (nh == IPPROTO_FRAGMENT) {
			off += 8;
			p->id = e.id;
			p->frag = e.fo & bpf_htons(0xfff8) ? LATER : e.fo & bpf_htons(1) ? FIRST : WHOLE;
		} else {
			off += nh == IPPROTO_AH ? (e.len + 2) * 4 : (e.len + 1) * 8;
		}
		nh = e.nh;
		if (p->frag == LATER)
			break;
	}
	p->proto = nh;
	p->l4 = off;
	return 0;
}

/* the IP header at `off`; addresses as they stand there */
__noinline int v_parse_ip(struct __sk_buff *skb, struct pkt *p, __u32 off)
{
	if (!p)
		return -1;
	if (!p->v6) {
		struct iphdr ih;

		if (LD(off, &ih, sizeof(ih)) < 0)
			return -1;
		mapped(&p->k.src, ih.saddr);
		mapped(&p->k.dst, ih.daddr);
		p->proto = ih.protocol;
		p->tos = ih.tos;
		p->id = ih.id;
		p->l4 = off + ih.ihl * 4;
		p->frag = ih.frag_off & bpf_htons(0x1fff) ? LATER :
			  ih.frag_off & bpf_htons(0x2000) ? FIRST : WHOLE;
		return 0;
	}
	struct ipv6hdr ih;

	if (LD(off, &ih, sizeof(ih)) < 0)
		return -1;
	__builtin_memcpy(&p->k.src, &ih.saddr, 16);
	__builtin_memcpy(&p->k.dst, &ih.daddr, 16);
	/* on the wire that form means nothing, here it would mean IPv4 */
	if (p->k.dst.a[0] == 0 && p->k.dst.a[1] == 0 && p->k.dst.a[2] == MAPPED)
		return -1;
	p->frag = WHOLE;
	p->l4 = off + sizeof(ih);
	p->proto = ih.nexthdr;
	if (p->proto == IPPROTO_TCP || p->proto == IPPROTO_UDP)
		return 0;
	return v_walk6(skb, p, p->l4, p->proto);
}

static __always_inline void turn(struct pkt *p)
{
	struct v_addr a = p->k.src;
	__u16 port = p->k.sport;

	p->k.src = p->k.dst; p->k.dst = a;
	p->k.sport = p->k.dport; p->k.dport = port;
}

/* transport header; an ICMP error is replaced by what it quotes. 0, or -1: not parseable */
__noinline int v_parse_l4(struct __sk_buff *skb, struct pkt *p)
{
	struct icmp ic;
	struct v_addr to;

	if (!p)
		return -1;
	if (p->proto == IPPROTO_TCP) {
		if (LD(p->l4, &p->th, sizeof(p->th)) < 0)
			return -1;
		p->k.sport = p->th.source;
		p->k.dport = p->th.dest;
		return 0;
	}
	if (p->proto == IPPROTO_UDP) {
		struct udphdr uh;

		if (LD(p->l4, &uh, sizeof(uh)) < 0)
			return -1;
		p->k.sport = uh.source;
		p->k.dport = uh.dest;
		p->udp_len = bpf_ntohs(uh.len);
		return 0;
	}
	if (p->proto != (p->v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
		return 0;
	if (LD(p->l4, &ic, sizeof(ic)) < 0)
		return -1;
	if (ic.type == (p->v6 ? 128 : 8)) {
		p->kind = ECHO_REQUEST;
	} else if (ic.type == (p->v6 ? 129 : 0)) {
		p->kind = ECHO_REPLY;
	} else if (p->v6 ? ic.type >= 1 && ic.type <= 4 : ic.type == 3 || ic.type == 11 || ic.type == 12) {
		__u8 frag = p->frag;
		__u32 id = p->id;
		__be16 ports[2];

		to = p->k.dst;
		p->kind = ERROR;
		/* the quoted packet was sent by whom the error goes to */
		if (v_parse_ip(skb, p, p->l4 + sizeof(ic)) < 0 || p->frag == LATER || !same(&p->k.src, &to))
			return -1;
		if (p->proto != IPPROTO_TCP && p->proto != IPPROTO_UDP)
			return -1;
		if (LD(p->l4, ports, 4) < 0)
			return -1;
		p->k.sport = ports[0];
		p->k.dport = ports[1];
		p->frag = frag;
		p->id = id;
	}
	return 0;
}

/* ---- whose packet is it --------------------------------------------------------------------- */

/* the group of the target, or 0 */
__noinline int v_find_group(struct v_addr *a)
{
	struct v_config *c;
	struct v_prefix k;
	__u32 zero = 0, *group;

	if (!a)
		return 0;
	k.len = 128;
	k.addr = *a;
	group = bpf_map_lookup_elem(&targets, &k.addr);
	if (!group) {
		c = bpf_map_lookup_elem(&config, &zero);
		if (!c || !c->n_prefixes)
			return 0;
		group = bpf_map_lookup_elem(&prefixes, &k);
	}
	return group ? *group : 0;
}

/* the service in the group for this protocol and port, or 0 */
__noinline int v_find_sid(struct pkt *p, __u32 group)
{
	struct v_port k = { .group = group };
	__u32 *sid;

	if (!p)
		return 0;
	k.proto = p->proto == IPPROTO_ICMPV6 ? IPPROTO_ICMP : p->proto;
	k.port = k.proto == IPPROTO_TCP || k.proto == IPPROTO_UDP ? p->k.dport : 0;
	sid = bpf_map_lookup_elem(&ports, &k);
	if (!sid && k.port) {
		k.port = 0;
		sid = bpf_map_lookup_elem(&ports, &k);
	}
	if (!sid) {
		k.proto = 0;
		sid = bpf_map_lookup_elem(&ports, &k);
	}
	return sid ? *sid : 0;
}

/* is it one of the first n interfaces of the service? */
__noinline int v_serves(struct v_service *s, __u32 ifindex, __u32 n)
{
	if (!s)
		return 0;
	for (int i = 0; i < V_MAX_INTERFACES; i++)
		if (i < n && s->interfaces[i] == ifindex)
			return 1;
	return 0;
}

static __always_inline __u32 flow_hash(const struct v_flow_key *k, __u32 seed)
{
	__u32 h = mix(seed, (__u32)k->sport << 16 | k->dport);

	for (int i = 0; i < 4; i++)
		h = mix(mix(h, k->src.a[i]), k->dst.a[i]);
	return h;
}

/* the instance of generation i that this flow's hash fixes; 0 if there is none */
__noinline int v_pick(struct pkt *p, struct v_service *s, __u32 i)
{
	const struct v_generation *g;
	const struct v_instance *in;

	if (!p || !s)
		return 0;
	g = &s->gen[i & (V_MAX_GENERATIONS - 1)];
	in = &g->inst[0];
	if (g->n > 1)
		in = &g->inst[(__u64)flow_hash(&p->k, s->seed) * g->n >> 32 & (V_MAX_INSTANCES - 1)];
	if (!g->n || in->nsid < 0 || !in->ifindex)  /* a negative nsid would mean the host's own */
		return 0;
	p->ifindex = in->ifindex;
	p->nsid = in->nsid;
	p->slot = in->slot;
	p->generation = g->number;
	return 1;
}

/* May a new flow begin at the edge? V_MISS: yes; else why not. */
__noinline enum v_reason v_admit(struct __sk_buff *skb, struct pkt *p, struct v_service *s)
{
	__u32 on, h, sid;
	__u64 share, most;
	struct v_hold *held;
	int why = V_CLOUD_SHARE;

	if (!p || !s)
		return V_CLOUD_OTHER;
	if (!v_serves(s, skb->ifindex, s->n_admitting))
		return V_IFACE;
	on = s->flags & V_ENABLED;
	if (s->until_ns && bpf_ktime_get_boot_ns() >= s->until_ns)
		on = !on;
	if (!on)
		return V_CLOUD_DISABLED;
	if (s->flags & V_CLIENTS) {
		struct v_client c = { .len = 160, .sid = s->sid, .addr = p->k.src };

		if (!bpf_map_lookup_elem(&clients, &c))
			return V_CLIENT;
	}
	share = s->share;
	sid = s->sid;
	held = bpf_map_lookup_elem(&holds, &sid);
	if (held && !(s->flags & V_DROP)) {     /* what may not go to the cloud is not sent there */
		most = held->load < held->health ? held->load : held->health;
		most = most < held->quota ? most : held->quota;
		if (most < share) {
			share = most;
			why = V_CLOUD_HELD;
		}
	}
	if (share >> 32)
		return V_MISS;
	/* another hash than v_pick's: else share and instance would go together */
	h = ~s->seed;
	if (s->flags & V_SHARE_FLOW)
		h = flow_hash(&p->k, h);
	else
		for (int i = 0; i < 4; i++)
			h = mix(h, p->k.src.a[i]);
	return h < share ? V_MISS : why;
}

/* ---- is the way there ----------------------------------------------------------------------- */

/* A redirect to an ifindex that is gone drops in silence. Length 1: only an error says "gone"; a
 * packet larger than the MTU, which is an error of another kind, must still reach its socket. */
static __always_inline int alive(struct __sk_buff *skb, __u32 ifindex)
{
	__u32 len = 1;

	return bpf_check_mtu(skb, ifindex, &len, 0, 0) >= 0;
}

static __always_inline int edge(struct __sk_buff *skb, struct pkt *p, int why)
{
	return alive(skb, p->ifindex) ? why : V_CLOUD_DEAD;
}

/* For new flows also: is the link up? A link that is down has no route to the instance. */
__noinline int v_link_up(struct __sk_buff *skb, struct pkt *p)
{
	struct bpf_fib_lookup f = {};
	struct v_link *l;
	__u32 ifindex;
	long r;

	if (!p || !alive(skb, p->ifindex))
		return 0;
	ifindex = p->ifindex;
	l = bpf_map_lookup_elem(&links, &ifindex);
	if (!l)
		return 1;
	f.ifindex = ifindex;
	f.tot_len = 1;
	if (l->own4.a[3]) {
		f.family = AF_INET;
		f.ipv4_dst = l->own4.a[3];
	} else {
		f.family = AF_INET6;
		__builtin_memcpy(f.ipv6_dst, &l->own6, 16);
	}
	r = bpf_fib_lookup(skb, &f, sizeof(f), BPF_FIB_LOOKUP_DIRECT | BPF_FIB_LOOKUP_OUTPUT);
	return r != BPF_FIB_LKUP_RET_NOT_FWDED && r != BPF_FIB_LKUP_RET_UNREACHABLE;
}

/* ---- TCP ------------------------------------------------------------------------------------ */

enum { TCP_NONE = 0, TCP_COOKIE = 100 };    /* besides the kernel's states, BPF_TCP_… */

/* What the instance's namespace knows of the 4-tuple: a state, TCP_NONE, or TCP_COOKIE: a
 * listener to whom this ACK brings back a cookie. sport 0 finds listeners only. */
__noinline int v_look_tcp(struct __sk_buff *skb, struct pkt *p, __u32 sport)
{
	struct bpf_sock_tuple t;
	struct bpf_sock *sk;
	int state;

	if (!p || p->nsid < 0)
		return TCP_NONE;
	__builtin_memset(&t, 0, sizeof(t));
	if (p->v6) {
		__builtin_memcpy(t.ipv6.saddr, &p->k.src, 16);
		__builtin_memcpy(t.ipv6.daddr, &p->k.dst, 16);
		t.ipv6.sport = sport;
		t.ipv6.dport = p->k.dport;
		sk = bpf_skc_lookup_tcp(skb, &t, sizeof(t.ipv6), (__u32)p->nsid, 0);
	} else {
		t.ipv4.saddr = p->k.src.a[3];
		t.ipv4.daddr = p->k.dst.a[3];
		t.ipv4.sport = sport;
		t.ipv4.dport = p->k.dport;
		sk = bpf_skc_lookup_tcp(skb, &t, sizeof(t.ipv4), (__u32)p->nsid, 0);
	}
	if (!sk)
		return TCP_NONE;
	state = sk->state;
	if (state == BPF_TCP_LISTEN && p->kind == PLAIN && p->th.ack && !p->th.syn && !p->th.rst) {
		struct ipv6hdr ih = {};     /* the helper reads version and addresses */
		long r;

		if (p->v6) {
			ih.version = 6;
			__builtin_memcpy(&ih.saddr, &p->k.src, 16);
			__builtin_memcpy(&ih.daddr, &p->k.dst, 16);
		} else {
			struct iphdr *i4 = (void *)&ih;

			i4->version = 4;
			i4->saddr = p->k.src.a[3];
			i4->daddr = p->k.dst.a[3];
		}
		r = bpf_tcp_check_syncookie(sk, &ih, sizeof(ih), &p->th, sizeof(p->th));
		if (r == 0)
			state = TCP_COOKIE;
	}
	bpf_sk_release(sk);
	return state;
}

/* MP_JOIN belongs to a connection that only one of edge and cloud has, and nobody here knows which */
__noinline int v_is_join(struct __sk_buff *skb, struct pkt *p)
{
	__u8 o[3];
	__u32 off, end;

	if (!p)
		return 0;
	off = p->l4 + sizeof(struct tcphdr);
	end = p->l4 + p->th.doff * 4;
	for (int i = 0; i < 40 && off + 3 <= end; i++) {
		if (LD(off, o, 3) < 0 || o[0] == 0)
			return 0;
		if (o[0] == 1) {
			off++;
			continue;
		}
		if (o[0] == 30)
			return (o[2] & 0xf0) == MP_JOIN;
		if (o[1] < 2)
			return 0;
		off += o[1];
	}
	return 0;
}

/* A bare SYN that no request socket knows. listener, time_wait: generation where, or -1. */
__noinline enum v_reason v_syn(struct __sk_buff *skb, struct pkt *p, struct v_service *s, int listener, int time_wait)
{
	struct v_syn n = {}, *o;
	struct v_flow_key k;
	int why, again, copy;

	if (!p || !s)
		return V_CLOUD_OTHER;
	k = p->k;
	n.ns = bpf_ktime_get_boot_ns();
	n.seq = p->th.seq;
	o = bpf_map_lookup_elem(&syns, &k);
	again = o && o->seq == n.seq && n.ns - o->ns < SYN_NS;
	copy = again && n.ns - o->ns < SYN_TWICE_NS;
	if (again && o->went == V_WENT_CLOUD) {
		why = V_CLOUD_SYN_AGAIN;
		goto cloud;
	}
	if (v_is_join(skb, p)) {
		why = V_CLOUD_JOIN;
		goto cloud;
	}
	why = v_admit(skb, p, s);
	if (why)
		goto cloud;
	why = V_CLOUD_NO_LISTENER;
	if (listener >= 0)
		why = v_pick(p, s, listener) && v_link_up(skb, p) ? V_EDGE_SYN : V_CLOUD_DEAD;
	if (why != V_EDGE_SYN) {
		if (s->flags & V_DROP)
			return V_DROP_DOWN;
		goto cloud;
	}
	/* It went to the edge before and left no request socket: the accept queue is full. */
	if (again && !copy && time_wait < 0 && !(s->flags & V_DROP)) {
		why = V_CLOUD_HUNG;
		goto cloud;
	}
	if (p->dry)
		return why;
	if (time_wait >= 0) {
		bpf_map_delete_elem(&away, &k);
	} else if (!copy) {
		n.went = again ? V_WENT_TIMED : V_WENT_EDGE;
		bpf_map_update_elem(&syns, &k, &n, BPF_ANY);
	}
	return why;
cloud:
	if (!p->dry) {
		bpf_map_update_elem(&syns, &k, &n, BPF_ANY);
		if (time_wait >= 0)
			bpf_map_update_elem(&away, &k, &n.ns, BPF_ANY);
	}
	return why;
}

__noinline enum v_reason v_tcp(struct __sk_buff *skb, struct pkt *p, struct v_service *s)
{
	int state, listener = -1, time_wait = -1, cookie = -1, syn;

	if (!p || !s)
		return V_CLOUD_OTHER;
	syn = p->kind == PLAIN && p->th.syn && !p->th.ack && !p->th.rst;
	EACH_GENERATION(i, s) {
		if (!v_pick(p, s, i))
			continue;
		state = v_look_tcp(skb, p, p->k.sport);
		if (state == BPF_TCP_TIME_WAIT) {
			/* not the last word: the ports may be in use again in another generation */
			if (time_wait < 0)
				time_wait = i;
			if (!syn)
				continue;
			state = v_look_tcp(skb, p, 0);
		}
		if (state == TCP_NONE)
			continue;
		if (state == TCP_COOKIE) {
			if (cookie < 0)
				cookie = i;
		} else if (state == BPF_TCP_LISTEN) {
			if (listener < 0 && s->gen[i].flags & V_ACCEPTING)
				listener = i;
		} else {
			return edge(skb, p, state == BPF_TCP_NEW_SYN_RECV ? V_EDGE_REQUEST : V_EDGE_ESTABLISHED);
		}
	}
	if (syn)
		return v_syn(skb, p, s, listener, time_wait);
	if (cookie >= 0)
		return v_pick(p, s, cookie) ? edge(skb, p, V_EDGE_COOKIE) : V_CLOUD_DEAD;
	if (time_wait >= 0) {
		struct v_flow_key k = p->k;
		__u64 *t = bpf_map_lookup_elem(&away, &k);

		if (t && bpf_ktime_get_boot_ns() - *t < SYN_NS)
			return V_CLOUD_AWAY;
		return v_pick(p, s, time_wait) ? edge(skb, p, V_EDGE_TIME_WAIT) : V_CLOUD_DEAD;
	}
	return V_CLOUD_NO_SOCKET;
}

/* ---- how long handshakes take --------------------------------------------------------------- */

enum { CONNECT, RTT };

__noinline int v_observe(__u32 sid, int what, __u64 ns)
{
	struct v_counters *c = bpf_map_lookup_elem(&counters, &sid);
	struct v_histogram *h;
	__u64 us = ns / 1000;
	__u32 n = 0;

	if (!c)
		return 0;
	h = what == CONNECT ? &c->connect : &c->rtt;
	while (n < V_BUCKETS - 1 && us >> n)
		n++;
	h->bucket[n]++;
	h->sum_us += us;
	return 0;
}

/* The server's SYN-ACK. One that is sent again says nothing of the client's round trip: the ACK may
 * be for either (Karn's rule, RFC 6298 3). */
__noinline int v_answered(struct pkt *p)
{
	struct v_flow_key k;
	struct v_syn *o;
	__u64 now;

	if (!p)
		return 0;
	k = p->k;
	o = bpf_map_lookup_elem(&syns, &k);
	if (!o || o->went == V_WENT_CLOUD || bpf_ntohl(p->th.ack_seq) != bpf_ntohl(o->seq) + 1)
		return 0;
	if (o->went != V_WENT_EDGE) {
		o->went = V_WENT_TIMED;
		return 0;
	}
	now = bpf_ktime_get_boot_ns();
	v_observe(p->sid, CONNECT, now - o->ns);
	o->ns = now;
	o->went = V_WENT_ANSWERED;
	return 0;
}

/* The client's ACK for a handshake that the server has not finished yet. */
__noinline int v_shook(struct pkt *p)
{
	struct v_flow_key k;
	struct v_syn *o;

	if (!p)
		return 0;
	k = p->k;
	o = bpf_map_lookup_elem(&syns, &k);
	if (!o || o->went != V_WENT_ANSWERED)
		return 0;
	v_observe(p->sid, RTT, bpf_ktime_get_boot_ns() - o->ns);
	o->went = V_WENT_TIMED;
	return 0;
}

/* ---- UDP ------------------------------------------------------------------------------------ */

enum { UDP_NONE = 0, UDP_OPEN = 1, UDP_CONNECTED = 2, UDP_WILDCARD = 4 };

__noinline int v_look_udp(struct __sk_buff *skb, struct pkt *p)
{
	struct bpf_sock_tuple t;
	struct bpf_sock *sk;
	int r;

	if (!p || p->nsid < 0)
		return UDP_NONE;
	__builtin_memset(&t, 0, sizeof(t));
	if (p->v6) {
		__builtin_memcpy(t.ipv6.saddr, &p->k.src, 16);
		__builtin_memcpy(t.ipv6.daddr, &p->k.dst, 16);
		t.ipv6.sport = p->k.sport;
		t.ipv6.dport = p->k.dport;
		sk = bpf_sk_lookup_udp(skb, &t, sizeof(t.ipv6), (__u32)p->nsid, 0);
	} else {
		t.ipv4.saddr = p->k.src.a[3];
		t.ipv4.daddr = p->k.dst.a[3];
		t.ipv4.sport = p->k.sport;
		t.ipv4.dport = p->k.dport;
		sk = bpf_sk_lookup_udp(skb, &t, sizeof(t.ipv4), (__u32)p->nsid, 0);
	}
	if (!sk)
		return UDP_NONE;
	r = sk->state == BPF_TCP_ESTABLISHED ? UDP_CONNECTED : UDP_OPEN;
	/* a socket bound to an IPv6 address has 127.0.0.6 here */
	if (!sk->src_ip4)
		r |= UDP_WILDCARD;
	bpf_sk_release(sk);
	return r;
}

/* the server will answer from an address of its own choice: note what to put back */
static __always_inline void note_reply(struct pkt *p, int sock)
{
	struct v_addr *old, target = p->k.dst;
	struct v_reply_key r;

	if (!(sock & UDP_WILDCARD) || p->dry)
		return;
	r.client = p->k.src;
	r.cport = p->k.sport;
	r.sport = p->k.dport;
	r.slot = p->slot;
	old = bpf_map_lookup_elem(&replies, &r);
	if (!old || !same(old, &target))
		bpf_map_update_elem(&replies, &r, &target, BPF_ANY);
}

/* the generation whose instance holds the flow */
__noinline int v_pick_slot(struct pkt *p, struct v_service *s, __u32 slot)
{
	if (!p || !s)
		return 0;
	EACH_GENERATION(i, s)
		if (v_pick(p, s, i) && p->slot == slot)
			return 1;
	return 0;
}

static __always_inline struct v_flow *live_flow(struct pkt *p, struct v_service *s, __u64 now)
{
	struct v_flow_key k = p->k;
	struct v_flow *f = bpf_map_lookup_elem(&flows, &k);

	return f && now - f->last_ns < s->udp_idle_ns ? f : 0;
}

static __always_inline int is_edge(const struct v_flow *f, const struct v_service *s)
{
	return f->edge && f->epoch == s->udp_epoch;
}

/* RFC 9000 17.2.2: long header, type Initial (another number in version 2) */
static __always_inline int is_initial(struct __sk_buff *skb, struct pkt *p)
{
	struct { __u8 first, version[4]; } q;
	__u32 version;

	if (p->udp_len < 8 + QUIC_MIN || LD(p->l4 + 8, &q, 5) < 0)
		return 0;
	__builtin_memcpy(&version, q.version, 4);
	return version && (q.first & 0xf0) == (version == QUIC_V2 ? 0xd0 : 0xc0);
}

/* Decides a new flow: V_EDGE_UDP_NEW with p's instance set, V_DROP_DOWN, or why it is the cloud's. */
__noinline enum v_reason v_udp_new(struct __sk_buff *skb, struct pkt *p, struct v_service *s, __u64 now)
{
	int sock, why, open = -1;

	if (!p || !s)
		return V_CLOUD_OTHER;
	EACH_GENERATION(i, s) {
		if (!v_pick(p, s, i))
			continue;
		sock = v_look_udp(skb, p);
		if (sock & UDP_CONNECTED)   /* the server itself says whose flow it is */
			return edge(skb, p, V_EDGE_UDP_CONNECTED);
		if (sock && open < 0 && s->gen[i].flags & V_ACCEPTING)
			open = i;
	}
	if (now < s->arm_until_ns)
		return V_CLOUD_UDP_ARMING;
	if (s->flags & V_QUIC && !is_initial(skb, p))
		return V_CLOUD_UDP_NOT_INITIAL;
	why = v_admit(skb, p, s);
	if (why)
		return why;
	why = V_CLOUD_UDP_NO_SOCKET;
	if (open >= 0)
		why = v_pick(p, s, open) && v_link_up(skb, p) ? V_EDGE_UDP_NEW : V_CLOUD_DEAD;
	if (why != V_EDGE_UDP_NEW && s->flags & V_DROP)
		return V_DROP_DOWN;
	return why;
}

__noinline enum v_reason v_udp(struct __sk_buff *skb, struct pkt *p, struct v_service *s)
{
	struct v_flow n = {}, *f;
	struct v_flow_key k;
	__u64 now = bpf_ktime_get_boot_ns();
	int sock = 0, why;

	if (!p || !s)
		return V_CLOUD_OTHER;
	f = live_flow(p, s, now);
	if (f) {
		why = V_CLOUD_UDP;
		if (is_edge(f, s)) {
			why = V_CLOUD_UDP_NO_SOCKET;
			if (v_pick_slot(p, s, f->slot)) {
				sock = v_look_udp(skb, p);
				if (sock)
					why = edge(skb, p, V_EDGE_UDP);
			}
			/* with when-down = "drop" it waits for the server instead */
			if (why != V_EDGE_UDP && s->flags & V_DROP && !v_admit(skb, p, s))
				return V_DROP_DOWN;
		}
		if (p->dry)
			return why;
		f->edge = why == V_EDGE_UDP;
		if (now - f->last_ns > s->udp_idle_ns >> 6)  /* do not dirty the line every time */
			f->last_ns = now;
		if (why == V_EDGE_UDP)
			note_reply(p, sock);
		return why;
	}
	why = v_udp_new(skb, p, s, now);
	if (p->dry || why == V_DROP_DOWN)
		return why;
	n.last_ns = now;
	n.sid = s->sid;
	n.epoch = s->udp_epoch;
	if (why == V_EDGE_UDP_NEW || why == V_EDGE_UDP_CONNECTED) {
		n.slot = p->slot;
		n.edge = 1;
	}
	k = p->k;
	if (bpf_map_update_elem(&flows, &k, &n, BPF_ANY) < 0 && why == V_EDGE_UDP_NEW)
		return V_CLOUD_UDP_FULL;
	if (why == V_EDGE_UDP_NEW)
		note_reply(p, v_look_udp(skb, p));
	return why;
}

/* ---- the rest of IP ------------------------------------------------------------------------- */

/* Is the flow of the packet that an ICMP error quotes the edge's? Sets p's instance. */
__noinline int v_error_edge(struct __sk_buff *skb, struct pkt *p, struct v_service *s)
{
	int state;

	if (!p || !s)
		return 0;
	if (p->proto == IPPROTO_UDP) {
		struct v_flow *f = live_flow(p, s, bpf_ktime_get_boot_ns());

		return f && is_edge(f, s) && v_pick_slot(p, s, f->slot);
	}
	EACH_GENERATION(i, s) {
		if (!v_pick(p, s, i))
			continue;
		state = v_look_tcp(skb, p, p->k.sport);
		if (state != TCP_NONE && state != BPF_TCP_LISTEN)
			return 1;
	}
	return 0;
}

__noinline enum v_reason v_echo(struct __sk_buff *skb, struct pkt *p, struct v_service *s)
{
	int why;

	if (!p || !s)
		return V_CLOUD_OTHER;
	if (!(s->flags & V_PING))
		return V_CLOUD_PING;
	why = v_admit(skb, p, s);
	if (why)
		return why;
	EACH_GENERATION(i, s)
		if (s->gen[i].flags & V_ACCEPTING && v_pick(p, s, i) && v_link_up(skb, p))
			return V_EDGE_PING;
	return V_CLOUD_DEAD;
}

static __always_inline void frag_key(struct v_frag_key *k, const struct pkt *p, const struct v_addr *src, const struct v_addr *dst)
{
	k->src = *src;
	k->dst = *dst;
	k->id = p->id;
	k->proto = p->v6 ? 0 : p->proto;
}

/* after the first fragment: where the later ones go, and what they get as their source */
__noinline int v_note_frag(struct pkt *p, struct v_addr *src, struct v_addr *dst, struct v_addr *put, int go)
{
	struct v_frag_key k;
	struct v_frag f = {};

	if (!p || !src || !dst || p->dry)
		return 0;
	frag_key(&k, p, src, dst);
	if (!go)
		return bpf_map_delete_elem(&frags, &k);   /* of an older datagram with this id */
	f.ns = bpf_ktime_get_boot_ns();
	f.sid = p->sid;
	f.slot = p->slot;
	f.ifindex = p->ifindex;
	f.generation = p->generation;
	if (put)
		f.put = *put;
	return bpf_map_update_elem(&frags, &k, &f, BPF_ANY);
}

/* A later fragment, addresses as they stand in it: 1 if its first one was seen. put may be 0. */
__noinline int v_find_frag(struct pkt *p, struct v_addr *put)
{
	struct v_frag_key k;
	struct v_frag *f;

	if (!p)
		return 0;
	frag_key(&k, p, &p->k.src, &p->k.dst);
	f = bpf_map_lookup_elem(&frags, &k);
	if (!f || bpf_ktime_get_boot_ns() - f->ns > FRAG_NS)
		return 0;
	p->sid = f->sid;
	p->slot = f->slot;
	p->ifindex = f->ifindex;
	p->generation = f->generation;
	if (put)
		*put = f->put;
	return 1;
}

/* ---- verdicts ------------------------------------------------------------------------------- */

static __always_inline int to_edge(int why)
{
	return (why >= V_EDGE_ESTABLISHED && why <= V_EDGE_SYN) ||
	       (why >= V_EDGE_UDP_NEW && why <= V_EDGE_UDP_CONNECTED) ||
	       why == V_EDGE_ICMP || why == V_EDGE_PING || why == V_EDGE_FRAGMENT;
}

static __noinline void count(__u32 sid, enum v_reason why, __u64 in, __u64 out)
{
	struct v_counters *c = bpf_map_lookup_elem(&counters, &sid);
	__u64 i = why;

	barrier_var(i);   /* else the compiler shifts the bound away that the verifier needs to see */
	if (!c || i >= V_REASONS)
		return;
	c->packets[i]++;
	c->in_bytes += in;
	c->out_bytes += out;
}

/* what is no client's */
static __noinline void count_own(__u32 sid, enum v_reason why, __u64 in, __u64 out)
{
	struct v_counters *c = bpf_map_lookup_elem(&counters, &sid);

	if (!c)
		return;
	c->packets[why == V_OWN_IN ? V_OWN_IN : V_OWN_OUT]++;
	c->own_in_bytes += in;
	c->own_out_bytes += out;
}

static __always_inline int finish(struct __sk_buff *skb, struct pkt *p, __u32 flags, int why)
{
	int go = to_edge(why);

	if (p->dry) {
		skb->cb[0] = V_DRY_RUN_DONE;
		skb->cb[1] = why;
		skb->cb[2] = p->sid;
		skb->cb[3] = go ? p->slot : 0;
		skb->cb[4] = go ? p->generation : 0;
		return PASS;
	}
	if (why == V_MISS)
		return PASS;
	count(p->sid, why, go ? skb->len : 0, 0);
	if (why == V_DROP_DOWN)
		return TC_ACT_SHOT;
	if (!go)
		return PASS;
	if (flags & V_HONOUR) {
		skb->mark = V_MARK | p->slot;
		return PASS;
	}
	return bpf_redirect_peer(p->ifindex, 0);
}

static __always_inline int direct(struct __sk_buff *skb, struct pkt *p)
{
	struct v_service *s = 0;
	__u32 group, sid;
	int why, bad;

	group = v_find_group(&p->k.dst);
	if (!group)
		return finish(skb, p, 0, V_MISS);
	if (p->frag == LATER) {
		if (v_find_frag(p, 0))
			s = bpf_map_lookup_elem(&services, &p->sid);
		if (!s)
			return finish(skb, p, 0, V_CLOUD_FRAGMENT);
		return finish(skb, p, s->flags, edge(skb, p, V_EDGE_FRAGMENT));
	}
	bad = v_parse_l4(skb, p);
	if (p->kind == ERROR)
		turn(p);
	sid = v_find_sid(p, group);
	s = sid ? bpf_map_lookup_elem(&services, &sid) : 0;
	if (!s)
		return finish(skb, p, 0, V_MISS);
	p->sid = sid;
	if (bad)
		why = V_CLOUD_OTHER;
	else if (!v_serves(s, skb->ifindex, s->n_interfaces))
		why = V_IFACE;
	else if (p->kind == ERROR)
		why = v_error_edge(skb, p, s) ? edge(skb, p, V_EDGE_ICMP) : V_CLOUD_ICMP;
	else if (p->proto == IPPROTO_TCP) {
		why = v_tcp(skb, p, s);
		if ((why == V_EDGE_REQUEST || why == V_EDGE_COOKIE) && p->th.ack && !p->th.syn && !p->th.rst && !p->dry)
			v_shook(p);
	} else if (p->proto == IPPROTO_UDP)
		why = v_udp(skb, p, s);
	else if (p->kind == ECHO_REQUEST)
		why = v_echo(skb, p, s);
	else
		why = V_CLOUD_OTHER;
	if (p->frag == FIRST)
		v_note_frag(p, &p->k.src, &p->k.dst, 0, to_edge(why));
	return finish(skb, p, s->flags, why);
}

SEC("tc") int viscum_in(struct __sk_buff *skb)
{
	struct pkt p;

	__builtin_memset(&p, 0, sizeof(p));
	p.dry = skb->cb[0] == V_DRY_RUN0 && skb->cb[1] == V_DRY_RUN1 && skb->cb[2] == V_DRY_RUN2;
	if (skb->pkt_type != PACKET_HOST || skb->vlan_present)
		return p.dry ? finish(skb, &p, 0, V_NOT_HOST) : PASS;
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		p.v6 = 1;
	else if (skb->protocol != bpf_htons(ETH_P_IP))
		return finish(skb, &p, 0, V_MISS);
	if (v_parse_ip(skb, &p, 0) < 0)
		return finish(skb, &p, 0, V_MISS);
	return direct(skb, &p);
}

/* ---- the way back --------------------------------------------------------------------------- */

/* Is it an answer? Only answers may pass the host's stack by: V_RETURN or V_RETURN_STACK.
 * A flow entry is needed for UDP, for a connected socket does not tell who began. */
__noinline enum v_reason v_is_reply(struct __sk_buff *skb, struct pkt *p, struct v_service *s, __u32 slot)
{
	struct v_flow *f;
	__u64 now;

	if (!p || !s)
		return V_RETURN_STACK;
	if (p->kind == ERROR)
		return v_error_edge(skb, p, s) && p->slot == slot ? V_RETURN : V_RETURN_STACK;
	if (p->proto == IPPROTO_TCP)
		return p->th.syn && !p->th.ack ? V_RETURN_STACK : V_RETURN;
	if (p->kind == ECHO_REPLY)
		return s->flags & V_PING ? V_RETURN : V_RETURN_STACK;
	if (p->proto != IPPROTO_UDP)
		return V_RETURN_STACK;
	now = bpf_ktime_get_boot_ns();
	f = live_flow(p, s, now);
	if (!f || !is_edge(f, s) || f->slot != slot)
		return V_RETURN_STACK;
	if (now - f->last_ns > s->udp_idle_ns >> 6)
		f->last_ns = now;
	return V_RETURN;
}

/* the target's address instead of the server's own as the packet's source */
__noinline int v_put_source(struct __sk_buff *skb, struct pkt *p, struct v_addr *own)
{
	__u32 udp = ETH_HLEN + offsetof(struct udphdr, check);

	if (!p || !own)
		return -1;
	udp += p->l4;
	if (p->v6) {
		__s64 diff = bpf_csum_diff(own->a, 16, p->k.dst.a, 16, 0);

		if (p->frag != LATER && bpf_l4_csum_replace(skb, udp, 0, diff, BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0) < 0)
			return -1;
		return bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, saddr), &p->k.dst, 16, 0);
	}
	__u32 from = own->a[3], to = p->k.dst.a[3];

	if (p->frag != LATER && bpf_l4_csum_replace(skb, udp, from, to, BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0 | 4) < 0)
		return -1;
	if (bpf_l3_csum_replace(skb, ETH_HLEN + offsetof(struct iphdr, check), from, to, 4) < 0)
		return -1;
	return bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct iphdr, saddr), &to, 4, 0);
}

/* Straight out where the host's routing would send it, if that is one of the service's client
 * interfaces; else by the stack. */
__noinline int v_leave(struct __sk_buff *skb, struct pkt *p, struct v_service *s, enum v_reason why)
{
	struct bpf_fib_lookup f = {};
	struct bpf_redir_neigh nh = {};
	long r;

	if (!p || !s)
		return PASS;
	if (s->flags & V_HONOUR) {
		skb->mark = V_MARK | p->slot;
		goto stack;
	}
	f.ifindex = skb->ifindex;
	f.l4_protocol = p->proto;
	if (p->v6) {
		f.family = AF_INET6;
		__builtin_memcpy(f.ipv6_src, &p->k.dst, 16);
		__builtin_memcpy(f.ipv6_dst, &p->k.src, 16);
	} else {
		f.family = AF_INET;
		f.tos = p->tos;
		f.ipv4_src = p->k.dst.a[3];
		f.ipv4_dst = p->k.src.a[3];
	}
	r = bpf_fib_lookup(skb, &f, sizeof(f), 0);
	if (r != BPF_FIB_LKUP_RET_SUCCESS && r != BPF_FIB_LKUP_RET_NO_NEIGH)
		goto stack;
	if (!v_serves(s, f.ifindex, s->n_interfaces))
		goto stack;
	nh.nh_family = f.family;
	__builtin_memcpy(nh.ipv6_nh, f.ipv6_dst, 16);   /* one union, as in f */
	count(p->sid, why, 0, skb->len);
	return bpf_redirect_neigh(f.ifindex, &nh, sizeof(nh), 0);
stack:
	count(p->sid, why == V_RETURN_SOURCE ? why : V_RETURN_STACK, 0, skb->len);
	return PASS;
}

SEC("tc") int viscum_out(struct __sk_buff *skb)
{
	struct v_addr own, put = {}, *target;
	__u32 ifindex = skb->ifindex, group;
	struct v_service *s;
	struct v_link *l;
	int why = V_RETURN;
	struct pkt p;

	__builtin_memset(&p, 0, sizeof(p));
	l = bpf_map_lookup_elem(&links, &ifindex);
	if (!l)
		return PASS;
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		p.v6 = 1;
	else if (skb->protocol != bpf_htons(ETH_P_IP))
		return PASS;
	if (v_parse_ip(skb, &p, 0) < 0)
		return PASS;
	own = p.k.src;
	if (p.frag == LATER) {
		if (!v_find_frag(&p, &put) || p.ifindex != ifindex)
			goto own;
		s = bpf_map_lookup_elem(&services, &p.sid);
		if (!s)
			goto own;
		turn(&p);
		if (put.a[3] || put.a[0]) {
			p.k.dst = put;
			if (v_put_source(skb, &p, &own) < 0)
				return PASS;
		}
		return v_leave(skb, &p, s, V_RETURN);
	}
	if (v_parse_l4(skb, &p) < 0)
		goto own;
	if (p.kind != ERROR)        /* what an error quotes came from the client already */
		turn(&p);
	if (p.proto == IPPROTO_UDP && p.kind == PLAIN && same(&own, p.v6 ? &l->own6 : &l->own4)) {
		struct v_reply_key r = { .client = p.k.src, .cport = p.k.sport, .sport = p.k.dport, .slot = l->slot };

		target = bpf_map_lookup_elem(&replies, &r);
		if (!target)
			goto own;
		put = p.k.dst = *target;
		why = V_RETURN_SOURCE;
	}
	group = v_find_group(&p.k.dst);
	p.sid = group ? v_find_sid(&p, group) : 0;
	s = p.sid ? bpf_map_lookup_elem(&services, &p.sid) : 0;
	if (!s || !v_pick_slot(&p, s, l->slot))   /* a target of another service, or of none */
		goto own;
	if (v_is_reply(skb, &p, s, l->slot) != V_RETURN)
		goto own;
	if (p.proto == IPPROTO_TCP && p.kind == PLAIN && p.th.syn)
		v_answered(&p);
	if (p.frag == FIRST)
		v_note_frag(&p, &own, &p.k.src, &put, 1);
	if (why == V_RETURN_SOURCE && v_put_source(skb, &p, &own) < 0)
		return PASS;
	return v_leave(skb, &p, s, why);
own:
	if (p.proto != IPPROTO_ICMPV6 || p.kind != PLAIN)   /* neighbour discovery stays on the link */
		count_own(l->sid, V_OWN_OUT, 0, skb->len);
	return PASS;
}

/* What the host's stack sends into the link. Clients' packets come another way (redirect_peer), or
 * are marked (firewall = "honour"). */
SEC("tc") int viscum_own(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	struct v_link *l = bpf_map_lookup_elem(&links, &ifindex);
	__u8 h[2];  /* next header, hop limit */

	if (!l || skb->mark == (V_MARK | l->slot))
		return PASS;
	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		if (bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, nexthdr), h, 2) < 0)
			return PASS;
		if (h[0] == IPPROTO_HOPOPTS || (h[0] == IPPROTO_ICMPV6 && h[1] == 255))
			return PASS;   /* multicast listeners and neighbour discovery stay on the link */
	} else if (skb->protocol != bpf_htons(ETH_P_IP)) {
		return PASS;
	}
	count_own(l->sid, V_OWN_IN, skb->len, 0);
	return PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
