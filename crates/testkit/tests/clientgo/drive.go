package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	protobufType = runtime.ContentTypeProtobuf
	namespace    = "clientgo"
	patience     = 20 * time.Second
)

type driver struct {
	ctx    context.Context
	config *rest.Config
	client *kubernetes.Clientset
}

// drive goes through what Go programs do. The first thing that is not as with an upstream server ends it.
func drive(kubeconfig string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	// Protobuf alone: an answer in JSON would go unnoticed otherwise.
	config.ContentType = protobufType
	config.AcceptContentTypes = protobufType
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 4*patience)
	defer cancel()
	d := driver{ctx, config, client}
	steps := []struct {
		name string
		run  func() error
	}{
		{"objects", d.objects}, {"errors", d.errors}, {"pages", d.pages}, {"watch", d.watch},
		{"subresources", d.subresources}, {"lease", d.lease}, {"metadata", d.metadata}, {"informers", d.informers},
		{"every resource", d.everyResource},
	}
	for _, step := range steps {
		started := time.Now()
		if err := step.run(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		fmt.Printf("%s: ok in %s\n", step.name, time.Since(started).Round(time.Millisecond))
	}
	return nil
}

func named(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}}
}

func deployment(name string) *appsv1.Deployment {
	zero := int32(0)
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{ObjectMeta: named(name), Spec: appsv1.DeploymentSpec{
		Replicas: &zero,
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "x"}}},
		},
	}}
}

func (d driver) objects() error {
	core := d.client.CoreV1()
	space := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	if _, err := core.Namespaces().Create(d.ctx, space, metav1.CreateOptions{}); err != nil {
		return err
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	if _, err := core.ServiceAccounts(namespace).Create(d.ctx, account, metav1.CreateOptions{}); err != nil {
		return err
	}
	secret := &corev1.Secret{ObjectMeta: named("s"), Data: map[string][]byte{"k": {0, 1, 255}}}
	created, err := core.Secrets(namespace).Create(d.ctx, secret, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if string(created.Data["k"]) != "\x00\x01\xff" || created.UID == "" || created.CreationTimestamp.IsZero() {
		return fmt.Errorf("secret came back as %v", created)
	}
	made, err := d.client.AppsV1().Deployments(namespace).Create(d.ctx, deployment("web"), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if made.Spec.Replicas == nil || *made.Spec.Replicas != 0 || made.Spec.Strategy.RollingUpdate.MaxSurge.StrVal != "25%" {
		return fmt.Errorf("deployment came back as %v", made)
	}
	patch := []byte(`{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"y"}]}}}}`)
	patched, err := d.client.AppsV1().Deployments(namespace).Patch(d.ctx, "web", types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return err
	}
	if patched.Spec.Template.Spec.Containers[0].Image != "y" || patched.Generation != 2 {
		return fmt.Errorf("patched to %v", patched)
	}
	return nil
}

func (d driver) errors() error {
	maps := d.client.CoreV1().ConfigMaps(namespace)
	if _, err := maps.Get(d.ctx, "none", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		return fmt.Errorf("not found is %v", err)
	}
	made, err := maps.Create(d.ctx, &corev1.ConfigMap{ObjectMeta: named("a")}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if _, err := maps.Create(d.ctx, &corev1.ConfigMap{ObjectMeta: named("a")}, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("already exists is %v", err)
	}
	made.Data = map[string]string{"x": "1"}
	if _, err := maps.Update(d.ctx, made, metav1.UpdateOptions{}); err != nil {
		return err
	}
	if _, err := maps.Update(d.ctx, made, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		return fmt.Errorf("conflict is %v", err)
	}
	_, err = maps.Create(d.ctx, &corev1.ConfigMap{ObjectMeta: named("UPPER")}, metav1.CreateOptions{})
	status, ok := err.(*apierrors.StatusError)
	if !ok || !apierrors.IsInvalid(err) || len(status.ErrStatus.Details.Causes) == 0 || status.ErrStatus.Details.Causes[0].Field != "metadata.name" {
		return fmt.Errorf("invalid is %v", err)
	}
	return nil
}

func (d driver) pages() error {
	maps := d.client.CoreV1().ConfigMaps(namespace)
	for i := range 7 {
		if _, err := maps.Create(d.ctx, &corev1.ConfigMap{ObjectMeta: named(fmt.Sprintf("m%d", i))}, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	var names []string
	options := metav1.ListOptions{Limit: 3, FieldSelector: "metadata.name!=a"}
	for {
		list, err := maps.List(d.ctx, options)
		if err != nil {
			return err
		}
		for _, item := range list.Items {
			names = append(names, item.Name)
		}
		if options.Continue = list.Continue; options.Continue == "" {
			break
		}
	}
	if got := strings.Join(names, " "); got != "m0 m1 m2 m3 m4 m5 m6" {
		return fmt.Errorf("listed %q", got)
	}
	return nil
}

func (d driver) watch() error {
	maps := d.client.CoreV1().ConfigMaps(namespace)
	list, err := maps.List(d.ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	watcher, err := maps.Watch(d.ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion, AllowWatchBookmarks: true})
	if err != nil {
		return err
	}
	defer watcher.Stop()
	made, err := maps.Create(d.ctx, &corev1.ConfigMap{ObjectMeta: named("w"), Data: map[string]string{"big": strings.Repeat("x", 100_000)}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	made.Data["x"] = "1"
	if _, err := maps.Update(d.ctx, made, metav1.UpdateOptions{}); err != nil {
		return err
	}
	if err := maps.Delete(d.ctx, "w", metav1.DeleteOptions{}); err != nil {
		return err
	}
	for _, want := range []watch.EventType{watch.Added, watch.Modified, watch.Deleted} {
		select {
		case event := <-watcher.ResultChan():
			object, ok := event.Object.(*corev1.ConfigMap)
			if !ok || event.Type != want || object.Name != "w" || len(object.Data["big"]) != 100_000 {
				return fmt.Errorf("%s expected, %s came with %T", want, event.Type, event.Object)
			}
		case <-time.After(patience):
			return fmt.Errorf("%s did not come", want)
		}
	}
	// A refusal is in protobuf, too.
	if _, err := maps.Watch(d.ctx, metav1.ListOptions{ResourceVersion: "rubbish"}); !apierrors.IsBadRequest(err) {
		return fmt.Errorf("a watch from rubbish ends with %v", err)
	}
	return nil
}

func (d driver) subresources() error {
	deployments := d.client.AppsV1().Deployments(namespace)
	scale, err := deployments.GetScale(d.ctx, "web", metav1.GetOptions{})
	if err != nil {
		return err
	}
	scale.Spec.Replicas = 3
	if scale, err = deployments.UpdateScale(d.ctx, "web", scale, metav1.UpdateOptions{}); err != nil {
		return err
	}
	if scale.Spec.Replicas != 3 || scale.Status.Selector != "app=web" {
		return fmt.Errorf("scale is %v", scale)
	}
	request := &authenticationv1.TokenRequest{}
	token, err := d.client.CoreV1().ServiceAccounts(namespace).CreateToken(d.ctx, "default", request, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token.Status.Token}}
	if review, err = d.client.AuthenticationV1().TokenReviews().Create(d.ctx, review, metav1.CreateOptions{}); err != nil {
		return err
	}
	if !review.Status.Authenticated || review.Status.User.Username != "system:serviceaccount:"+namespace+":default" {
		return fmt.Errorf("token is of %v", review.Status)
	}
	access := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
		ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "get", Resource: "pods"},
	}}
	if access, err = d.client.AuthorizationV1().SelfSubjectAccessReviews().Create(d.ctx, access, metav1.CreateOptions{}); err != nil {
		return err
	}
	if !access.Status.Allowed {
		return fmt.Errorf("access is %v", access.Status)
	}
	return nil
}

func (d driver) lease() error {
	leases := d.client.CoordinationV1().Leases(namespace)
	now, holder, transitions := metav1.NowMicro(), "me", int32(0)
	lease := &coordinationv1.Lease{ObjectMeta: named("l"), Spec: coordinationv1.LeaseSpec{
		HolderIdentity: &holder, RenewTime: &now, LeaseTransitions: &transitions,
	}}
	lease, err := leases.Create(d.ctx, lease, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if lease.Spec.RenewTime.UnixMicro() != now.UnixMicro() {
		return fmt.Errorf("time %s came back as %s", now, lease.Spec.RenewTime)
	}
	if lease.Spec.LeaseTransitions == nil || *lease.Spec.LeaseTransitions != 0 {
		return fmt.Errorf("lease is %v", lease)
	}
	return nil
}

func (d driver) metadata() error {
	client, err := metadata.NewForConfig(metadata.ConfigFor(d.config))
	if err != nil {
		return err
	}
	maps := client.Resource(corev1.SchemeGroupVersion.WithResource("configmaps")).Namespace(namespace)
	list, err := maps.List(d.ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	if len(list.Items) == 0 || list.Items[0].Labels["app"] != "a" || list.ResourceVersion == "" {
		return fmt.Errorf("metadata is %v", list)
	}
	watcher, err := maps.Watch(d.ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		return err
	}
	defer watcher.Stop()
	patch := []byte(`{"metadata":{"labels":{"more":"x"}}}`)
	if _, err := maps.Patch(d.ctx, "a", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return err
	}
	event := <-watcher.ResultChan()
	object, ok := event.Object.(*metav1.PartialObjectMetadata)
	if !ok || object.Labels["more"] != "x" {
		return fmt.Errorf("event is %v", event)
	}
	return nil
}

func (d driver) informers() error {
	factory := informers.NewSharedInformerFactoryWithOptions(d.client, 0, informers.WithNamespace(namespace))
	informer := factory.Core().V1().ConfigMaps().Informer()
	added := make(chan string, 100)
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(object any) { added <- object.(*corev1.ConfigMap).Name },
	}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(d.ctx, patience)
	defer cancel()
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	defer cancel()
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return fmt.Errorf("the cache was not filled")
	}
	if _, err := d.client.CoreV1().ConfigMaps(namespace).Create(ctx, &corev1.ConfigMap{ObjectMeta: named("late")}, metav1.CreateOptions{}); err != nil {
		return err
	}
	for {
		select {
		case name := <-added:
			if name == "late" {
				return nil
			}
		case <-ctx.Done():
			return fmt.Errorf("the new object did not come")
		}
	}
}

// everyResource lists and watches every resource that the server has, in protobuf.
func (d driver) everyResource() error {
	config := rest.CopyConfig(d.config)
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	discovered, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	_, lists, err := discovered.Discovery().ServerGroupsAndResources()
	if err != nil {
		return err
	}
	count := 0
	for _, list := range lists {
		version, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return err
		}
		for _, resource := range list.APIResources {
			if strings.Contains(resource.Name, "/") || !strings.Contains(resource.Verbs.String(), "list") || resource.Kind == "ComponentStatus" {
				continue
			}
			if err := d.listAndWatch(version, resource.Name, resource.Kind, strings.Contains(resource.Verbs.String(), "watch")); err != nil {
				return fmt.Errorf("%s %s: %w", version, resource.Name, err)
			}
			count++
		}
	}
	fmt.Printf("%d resources\n", count)
	return nil
}

func (d driver) listAndWatch(version schema.GroupVersion, resource, kind string, watched bool) error {
	config := rest.CopyConfig(d.config)
	config.GroupVersion = &version
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme.Scheme).WithoutConversion()
	config.APIPath = "/apis"
	if version.Group == "" {
		config.APIPath = "/api"
	}
	client, err := rest.RESTClientFor(config)
	if err != nil {
		return err
	}
	object, err := client.Get().Resource(resource).Do(d.ctx).Get()
	if err != nil {
		return err
	}
	// Only types of this list can be decoded into one.
	if got := fmt.Sprintf("%T", object); !strings.HasSuffix(got, "."+kind+"List") {
		return fmt.Errorf("listed as %s", got)
	}
	if !watched {
		return nil
	}
	seconds := int64(1)
	watcher, err := client.Get().Resource(resource).VersionedParams(&metav1.ListOptions{Watch: true, TimeoutSeconds: &seconds, ResourceVersion: "0"}, metav1.ParameterCodec).Watch(d.ctx)
	if err != nil {
		return err
	}
	watcher.Stop()
	return nil
}
